"""A config file as a checked experiment, or one line that says what is wrong with it.

`experiment` is what other rooms use; `stages` names the stages and the rounds of a race.
"""
