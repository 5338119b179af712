rule construct_frankens:
    """Write down the plans of a shard, with the depth, parameters and KV cache of each."""
    input:
        plans=plans_file,
        race=earlier_race,
        others=other_frozen,
        chosen=chosen,
        model=lambda w: model_manifest(w.model),
        stamp=script_stamp("construct_frankens"),
    output:
        f"{RESULTS}/frankens/{{model}}/{{quantization}}/{{stage}}.{{shard}}.json",
    log:
        f"{LOGS}/construct_frankens/{{model}}.{{quantization}}.{{stage}}.{{shard}}.log",
    priority: SOON
    # Seconds: less than a queue takes.
    localrule: True
    resources:
        mem_mb=by_attempt(1000),
        runtime=by_attempt(10),
    params:
        controls=lambda w: EXPERIMENT.runs_controls(w.model, w.quantization),
        # Of these a plan that the search grew has one.
        shards=lambda w: (
            sorted(RUN.workload.shards(w.model, Stage.parse(w.stage)))
            if Stage.parse(w.stage).before and EXPERIMENT.beam
            else []
        ),
    script:
        "../scripts/construct_frankens.py"


rule materialize_franken:
    """Save the frozen franken, or any plan, as a standalone checkpoint for other tools."""
    input:
        frozen=frozen_file,
        model=lambda w: model_manifest(w.model),
        stamp=script_stamp("materialize_franken"),
    output:
        directory(f"{RESULTS}/checkpoints/{{model}}/{{plan}}"),
    log:
        f"{LOGS}/materialize_franken/{{model}}.{{plan}}.log",
    wildcard_constraints:
        # A name of a file has 255 bytes, of which the log takes some.
        plan="[^/]{1,150}",
    resources:
        mem_mb=by_attempt(8000),
        runtime=by_attempt(60),
    script:
        "../scripts/materialize_franken.py"
