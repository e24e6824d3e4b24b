"""Operators of exported files, and what accelerators refuse by their documents."""

import re

import pytest

from efficientdet_tf.cli import command_line
from export import __main__ as command
from export.operators import operators, report


@pytest.fixture(scope="module")
def found(exported):
    names = ("model", "model_raw", "model_int8")
    return {name: operators((exported / f"{name}.tflite").read_bytes()) for name in names}


def test_the_most_frequent_come_first_and_none_is_left_out(found):
    """The head convolutions of this network: 5 levels, 2 heads, 2 separable convolutions each."""
    for rows in found.values():
        numbers = [row.number for row in rows]
        assert numbers == sorted(numbers, reverse=True)
        depthwise = sum(row.number for row in rows if row.name == "DEPTHWISE_CONV_2D")
        assert depthwise > 5 * 2 * 2


def test_nms_is_refused_by_all(found):
    [nms] = (row for row in found["model"] if row.name == "TFLite_Detection_PostProcess")
    assert (nms.number, nms.runs_on_gpu, nms.nnapi_level, nms.runs_on_edge_tpu) == (
        *(1, False, None, False),
    )


def test_a_file_without_nms_is_taken_as_a_whole(found):
    rows = found["model_raw"]
    assert {row.numbers for row in rows} == {"FLOAT32"}
    assert all(row.runs_on_gpu and row.nnapi_level for row in rows)
    assert not any(row.runs_on_edge_tpu for row in rows)
    # Nearest-neighbour resizing came with API level 29.
    assert max(row.nnapi_level for row in rows) == 29
    assert report(rows).splitlines()[-3:] == [
        "  GPU refuses none",
        "  NNAPI refuses none",
        "  EdgeTPU refuses all",
    ]


def test_the_network_in_int8_is_taken_by_edge_tpus(found):
    rows = [row for row in found["model_int8"] if row.numbers == "INT8"]
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "RESIZE_NEAREST_NEIGHBOR"} <= {
        row.name for row in rows
    }
    assert all(row.runs_on_edge_tpu and row.nnapi_level == 30 for row in rows)


def test_the_command_prints_them(tiny_run, tmp_path, capsys):
    arguments = [f"--model_dir={tiny_run}", f"--output={tmp_path}", "--format=tflite_raw"]
    assert command_line.call(command.COMMAND, [*arguments, "--operators"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["operator", "numbers", "count", "GPU", "NNAPI", "EdgeTPU"]
    assert re.fullmatch(r"  CONV_2D +FLOAT32 +\d+  yes  API 27  no", out[2])
    assert out[-1] == "  EdgeTPU refuses all"
