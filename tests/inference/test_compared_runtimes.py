"""Comparison of runtimes: which to use, table, and JSON."""

import pytest

from efficientdet_tf.inference import compared_runtimes
from efficientdet_tf.inference.compared_runtimes import ComparedRuntime, RuntimeComparison


def runtime(format, name, size, ap, is_exact, latency, rate):
    """Measurements with one and two threads; the second are twice as fast."""
    return ComparedRuntime(
        format,
        name,
        size,
        ap,
        is_exact,
        peak_memory=12_000_000,
        file="" if format == "run" else f"model.{format}",
        file_digest="",
        latency_ms={1: (2 * latency, 3 * latency), 2: (latency, 1.5 * latency)},
        throughput={1: {1: rate / 4, 8: rate / 2}, 2: {1: rate / 2, 8: rate}},
    )


RUN = runtime("run", "keras", 4_000_000, 0.5, True, 20.0, 60.0)
EXACT = runtime("onnx_raw", "openvino", 3_000_000, 0.5, True, 10.0, 90.0)
FAST = runtime("tflite_int8", "litert", 1_000_000, 0.495, False, 5.0, 80.0)
BAD = runtime("tflite_raw_int8", "litert", 900_000, 0.4, False, 1.0, 900.0)


def comparison(*runtimes):
    return RuntimeComparison(
        "A processor, 2 cores", "0a1b", "data/val.json", 0.01, (RUN, *runtimes)
    )


def test_the_advice_names_what_is_best_of_those_with_the_ap():
    assert comparison(BAD, EXACT, FAST).advice() == [
        "Fastest for one image: tflite_int8 in litert, 5.0 ms, 4.0 times as fast as Keras, AP "
        "0.495 against 0.500.",
        "Fastest with the detections of the run: onnx_raw in openvino, 10.0 ms, 2.0 times as fast "
        "as Keras, AP 0.500 against 0.500.",
        "Most images a second: onnx_raw in openvino, 90.0.",
        "Smallest: tflite_int8, 1.00 MB, AP 0.495.",
    ]


def test_an_exact_runtime_that_is_the_fastest_is_named_once():
    assert comparison(EXACT).advice()[0].startswith("Fastest for one image: onnx_raw in openvino")
    assert [line for line in comparison(EXACT).advice() if "with the detections" in line] == []
    # Nothing is exported that could be advised.
    assert comparison(BAD).advice()[0].startswith("Fastest for one image: run in keras, 20.0 ms")
    assert comparison(BAD).advice()[-1] == "Smallest: run, 4.00 MB, AP 0.500."


def test_the_table_has_a_row_for_each():
    lines = comparison(EXACT).table().splitlines()
    assert len(lines) == 3
    assert lines[2].split("MB  ")[1] == (
        "1: 20.0 / 30.0 ms, x1 22.5/s, x8 45.0/s; 2: 10.0 / 15.0 ms, x1 45.0/s, x8 90.0/s"
    )
    assert lines[2].split()[:7] == ["onnx_raw", "openvino", "3.00", "0.500", "yes", "12", "MB"]


def test_json_is_read_again(tmp_path):
    path = tmp_path / compared_runtimes.FILE_NAME
    written = comparison(EXACT, FAST)
    path.write_text(written.to_json())
    assert compared_runtimes.read(path) == written
    assert compared_runtimes.is_own(path)


@pytest.mark.parametrize("content", ["[", "[1]", "7", "{}", '{"advice": 1, "runtimes": []}'])
def test_other_files_are_not_ours(tmp_path, content):
    path = tmp_path / "runtimes.json"
    path.write_text(content)
    assert not compared_runtimes.is_own(path)
    with pytest.raises(ValueError):
        compared_runtimes.read(path)


def test_what_lacks_a_measurement_is_not_ours(tmp_path):
    path = tmp_path / "runtimes.json"
    path.write_text(comparison().to_json().replace('"ap": 0.5', '"accuracy": 0.5'))
    with pytest.raises(ValueError, match="^not a comparison of runtimes$"):
        compared_runtimes.read(path)
