"""Filter of TensorFlow's own log lines."""

import subprocess
import sys
import time

import pytest

from efficientdet_tf.cli import native_log

# As TensorFlow 2.20 and LiteRT 2.3 wrote them.
NOISE = """\
2026-11-24 22:57:58.8: E external/local_xla/xla/stream_executor/cuda/cuda_platform.cc:51] failed \
call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
W0000 00:00:1795561257.226943    6392 tf_tfl_flatbuffer_helpers.cc:364] Ignored output_format.
W0000 00:00:1795561257.227029    6392 tf_tfl_flatbuffer_helpers.cc:367] Ignored \
drop_control_dependency.
I0000 00:00:1795561257.523936    6392 mlir_graph_optimization_pass.cc:437] MLIR V1 optimization \
pass is not enabled
2026-11-24 23:13:57.365728: W tensorflow/core/framework/dataset.cc:993] Input of \
GeneratorDatasetOp::Dataset will not be optimized because the dataset does not implement the \
AsGraphDefInternal() method needed to apply optimizations.
2026-11-28 17:54:15.610308: E tensorflow/core/util/util.cc:131] oneDNN supports DT_UINT8 only on \
platforms with AVX-512. Falling back to the default Eigen-based implementation if present.
2026-11-30 13:17:56.705128: E tensorflow/core/lib/jpeg/jpeg_mem.cc:329] Premature end of JPEG \
data. Stopped at line 382/393
2026-11-24 22:57:56.0: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow binary \
is optimized to use available CPU instructions in performance-critical operations.
""".splitlines(keepends=True)

# Messages of TensorFlow's source that report a fault.
FAULTS = """\
2026-11-24 22:57:58.8: W tensorflow/core/common_runtime/gpu/gpu_device.cc:2342] Cannot dlopen some \
GPU libraries. Please make sure the missing libraries mentioned above are installed properly
Skipping registering GPU devices...
2026-11-24 22:57:58.8: E external/local_xla/xla/stream_executor/cuda/cuda_platform.cc:51] failed \
call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: system has unsupported display driver
W0000 00:00:1795561257.2    6392 bfc_allocator.cc:501] Allocator (GPU_0_bfc) ran out of memory
F0000 00:00:1795561257.2    6392 device.cc:1] Check failed: false
ERROR: Node number 7 (Conv2D) failed to prepare.
""".splitlines(keepends=True)


def filtered(text, level=""):
    command = [sys.executable, "-I", "-S", native_log.__file__, level]
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")
    return done.stderr.decode()


def test_noise_is_dropped_and_faults_are_not():
    lines = [line for pair in zip(NOISE, FAULTS) for line in pair]
    assert filtered("".join([*lines, *NOISE])) == "".join(FAULTS[: len(lines) // 2])
    assert filtered("".join(FAULTS)) == "".join(FAULTS)


def test_a_level_of_the_user_wins():
    text = "".join(NOISE)
    assert filtered(text, "0") == text
    kept = [line for line in NOISE if " I " not in line and line[0] != "I"]
    assert filtered(text, "1") == "".join(kept)
    assert filtered(text, "2") == "".join(line for line in NOISE if ": E " in line)
    assert filtered(text, "3") == ""


def test_what_has_no_end_of_line_is_passed_on_at_once():
    command = [sys.executable, "-I", "-S", native_log.__file__, ""]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"Continue? ")
    process.stdin.flush()
    assert process.stderr.read(10) == b"Continue? "
    assert process.communicate(b"\xff\n")[1] == b"\xff\n"


def run(code):
    """Process whose native code writes the argument of `write`."""
    program = (
        "import os, sys\n"
        "from absl import logging\n"
        "from efficientdet_tf.cli import native_log\n"
        "def write(text): os.write(2, text.encode())\n" + code
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_python_writes_as_before_and_native_code_through_the_filter():
    done = run(
        "before = sys.stderr\n"
        "with native_log.filtered():\n"
        f"    write({NOISE[0]!r})\n"
        "    write('native\\n')\n"
        "    print(os.environ['TF_CPP_MIN_LOG_LEVEL'])\n"
        "    print('python', file=sys.stderr)\n"
        "    logging.warning('absl')\n"
        "    assert os.fstat(sys.stderr.fileno()).st_ino != os.fstat(2).st_ino\n"
        "assert sys.stderr is before\n"
        f"write({NOISE[0]!r})\n"
    )
    assert (done.returncode, done.stdout) == (0, "1\n")
    lines = done.stderr.splitlines(keepends=True)
    # What Python and native code wrote may come in any order; the filter has ended before
    # the context is left.
    assert lines.pop() == NOISE[0]
    assert {line for line in lines if "absl" not in line} == {"native\n", "python\n"}
    assert sum(line.endswith("absl\n") for line in lines) == 1


def test_the_last_lines_before_a_crash_are_seen():
    done = run(f"with native_log.filtered():\n    write({FAULTS[4]!r})\n    os.abort()\n")
    assert done.returncode == -6
    # It may come when the process is already gone.
    deadline = time.monotonic() + 10
    while not done.stderr and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done.stderr == FAULTS[4]


@pytest.mark.parametrize("code", ["os.close(2)", "sys.stderr = None"])
def test_without_standard_error_nothing_is_filtered(code):
    done = run(f"{code}\nwith native_log.filtered():\n    print('done')\n")
    assert (done.returncode, done.stdout) == (0, "done\n")
