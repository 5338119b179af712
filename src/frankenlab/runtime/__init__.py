"""What a job and a workflow do around their work: lock, logs, signals, orphans, clean-up.

`job` surrounds every script of the workflow; `lock` lets one workflow at a time write results.
"""
