rule measure_exl2:
    """Measure what every bit width costs every layer, once per model for all bitrates."""
    input:
        model=lambda w: model_manifest(model_in(w.folder)),
        data=data_input(CALIBRATION),
        stamp=script_stamp("measure_exl2", data=local_data(CALIBRATION)),
    output:
        local(f"{EXL2}/measurement.json"),
    log:
        f"{LOGS}/measure_exl2/{{folder}}.{{key}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_exl2/{{folder}}.{{key}}.tsv"
    priority: longest_first("measure_exl2")
    threads: HALF
    resources:
        mem_mb=predicted("measure_exl2", "mem_mb"),
        runtime=predicted("measure_exl2", "runtime"),
        gpu=1 if SETTINGS.device == "cuda" else 0,
    params:
        model=lambda w: model_in(w.folder),
    script:
        "../scripts/measure_exl2.py"


rule quantize_exl2:
    """Quantize a model to EXL2 at one bitrate; all experiments share the directory."""
    input:
        model=lambda w: model_manifest(model_in(w.folder)),
        data=data_input(CALIBRATION),
        measurement=local(f"{EXL2}/measurement.json"),
        stamp=script_stamp("quantize_exl2", data=local_data(CALIBRATION)),
    output:
        manifest=local(f"{EXL2}/{{quantization}}/manifest.json"),
    log:
        f"{LOGS}/quantize_exl2/{{folder}}.{{key}}.{{quantization}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/quantize_exl2/{{folder}}.{{key}}.{{quantization}}.tsv"
    priority: longest_first("quantize_exl2")
    threads: HALF
    resources:
        mem_mb=predicted("quantize_exl2", "mem_mb"),
        runtime=predicted("quantize_exl2", "runtime"),
        gpu=1 if SETTINGS.device == "cuda" else 0,
    params:
        model=lambda w: model_in(w.folder),
    script:
        "../scripts/quantize_exl2.py"
