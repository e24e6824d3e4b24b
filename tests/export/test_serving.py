"""Export for TensorFlow Serving, and its client, against a server that speaks its protocols."""

import base64
import concurrent.futures
import http.server
import io
import json
import re
import threading

import grpc
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from without_tensorflow import detections

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import predict as predict_command
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.inference.server import ServerError, label_map
from efficientdet_tf.output_files import OutputError
from efficientdet_tf.run_directory import RunDirectory
from export import formats, serving


@pytest.fixture(scope="module")
def served(tiny_run, tmp_path_factory):
    """Folder with two versions, as a server would be given it."""
    run, folder = RunDirectory(tiny_run), tmp_path_factory.mktemp("serving")
    exporter = formats.Exporter(run.load_model(), run.config(), run.label_map(), folder)
    first, second = exporter.write("serving"), exporter.write("serving")
    assert (first.name, second.name) == ("1", "2")
    return folder / "serving"


@pytest.fixture(scope="module")
def signatures(served):
    return tf.saved_model.load(str(served / "2")).signatures


def run_signature(signatures, name, inputs):
    """Outputs of a signature for arrays, cast to the types it has."""
    [specs] = [signatures[name].structured_input_signature[1]]
    tensors = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
    return {key: value.numpy() for key, value in signatures[name](**tensors).items()}


class GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, signatures):
        self.signatures = signatures

    def Predict(self, request, context):  # noqa: N802
        if request.model_spec.name != "detector":
            name = request.model_spec.name
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {name}\nmore")
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        found = run_signature(self.signatures, request.model_spec.signature_name, inputs)
        response = predict_pb2.PredictResponse()
        for name, value in found.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


class RestHandler(http.server.BaseHTTPRequestHandler):
    signatures = None

    def do_POST(self):  # noqa: N802
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = re.fullmatch(r"/v1/models/(\w+):predict", self.path)[1]
        if name != "detector":
            self.answer(404, {"error": f"Malformed request: POST {self.path}"})
            return
        decoded = {
            key: [base64.b64decode(v["b64"]) if isinstance(v, dict) else v for v in values]
            for key, values in request["inputs"].items()
        }
        found = run_signature(self.signatures, request["signature_name"], decoded)
        outputs = {
            key: np.vectorize(bytes.decode)(value).tolist()
            if value.dtype == object
            else value.tolist()
            for key, value in found.items()
        }
        self.answer(200, {"outputs": outputs})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def addresses(signatures):
    """Addresses of a server, by protocol."""
    grpc_server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        GrpcService(signatures), grpc_server
    )
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    handler = type("Handler", (RestHandler,), {"signatures": signatures})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as rest_server:
        threading.Thread(target=rest_server.serve_forever, daemon=True).start()
        yield {
            "grpc": f"127.0.0.1:{port}",
            "rest": f"http://127.0.0.1:{rest_server.server_port}",
        }
        rest_server.shutdown()
    grpc_server.stop(None)


def test_the_warmup_is_a_request_that_the_model_answers(served, signatures):
    path = str(served / "1" / "assets.extra" / "tf_serving_warmup_requests")
    [record] = tf.data.TFRecordDataset(path).as_numpy_iterator()
    log = prediction_log_pb2.PredictionLog.FromString(record)
    request = log.predict_log.request
    assert request.model_spec.name == "detector"
    inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
    found = run_signature(signatures, request.model_spec.signature_name, inputs)
    assert found["status"].tolist() == [b"ok"]


def test_configuration_is_beside_the_versions(served):
    names = {path.name for path in served.iterdir()}
    assert names == {"1", "2", "models.config", "batching.config"}
    text = (served / "models.config").read_text()
    assert 'name: "detector"' in text and 'base_path: "/models/detector"' in text


def test_changed_configuration_is_kept(tmp_path):
    serving.write_configuration(tmp_path)
    (tmp_path / "batching.config").write_text("mine")
    serving.write_configuration(tmp_path)
    assert (tmp_path / "batching.config").read_text() == "mine"


def test_other_files_are_not_written_to(served, tmp_path):
    (tmp_path / "serving" / "1").mkdir(parents=True)
    with pytest.raises(OutputError, match="serving exists and was not written by this command"):
        formats.check(["serving"], tmp_path)
    formats.check(["serving"], served.parent)


def test_classes_are_asked_for_in_batches_that_the_server_accepts():
    [limit] = re.findall(r"max_batch_size { value: (\d+) }", serving._FILES["batching.config"])

    class Connection:
        def call(self, signature, class_indices):
            assert signature == "classes" and len(class_indices) <= int(limit)
            return {
                "ids": np.array(class_indices) + 1,
                "names": np.array([b"class %d" % index for index in class_indices], object),
                "num_classes": np.full(len(class_indices), 20),
            }

    found = label_map(Connection())
    assert found == LabelMap(tuple(range(1, 21)), tuple(f"class {index}" for index in range(20)))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_client_detects_what_the_model_does(addresses, exported, photograph, protocol):
    client = Detector.from_server(addresses[protocol])
    assert client.label_map == LabelMap((900, 3, 7), ("ant", "bee", "Kuh ä"))
    pixels = read_image(photograph)
    [found] = client.detect([pixels])
    [expected] = Detector.load(exported / "saved_model").detect([pixels])
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.class_indices, expected.class_indices)
    assert found.boxes.dtype == np.float32 and found.class_indices.dtype == np.int32


def test_a_rest_client_needs_no_tensorflow(addresses, photograph):
    boxes, _, _ = detections(addresses["rest"], photograph)
    [expected] = Detector.from_server(addresses["rest"]).detect(photograph)
    np.testing.assert_array_equal(boxes, expected.boxes)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_an_image_without_detections(addresses, protocol):
    [found] = Detector.from_server(addresses[protocol]).detect([np.zeros((9, 7, 3), np.uint8)])
    assert found.boxes.shape[1] == 4 and len(found.above(1.1)) == 0


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_command_detects_by_a_server(addresses, photograph, tmp_path, capsys, protocol):
    arguments = [f"--server={addresses[protocol]}", f"--input={photograph}"]
    arguments += [f"--output={tmp_path}", "--score_threshold=0.9"]
    assert command_line.call(predict_command.COMMAND, arguments) == 0
    [entry] = json.loads((tmp_path / "detections.json").read_text(encoding="utf-8"))
    names = {found["category_name"] for found in entry["detections"]}
    assert names and names <= {"ant", "bee", "Kuh ä"}
    assert f"detections in 1 images, written to {tmp_path}" in capsys.readouterr().out


class FailingHandler(RestHandler):
    """Server of one class, whose answer depends on the width of the image."""

    def do_POST(self):  # noqa: N802
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        outputs = {"ids": [5], "names": ["ant"], "num_classes": [1]}
        if request["signature_name"] == "serving_default":
            [image] = request["inputs"]["image_bytes"]
            width = PIL.Image.open(io.BytesIO(base64.b64decode(image["b64"]))).width
            if width == 11 or width > 20:
                return self.answer(503, {"error": "out of memory\nmore"})
            outputs = {"boxes": [[[1, 2, 3, 4]]], "scores": [[0.5]], "num_detections": [1]}
            outputs["status"] = ["not readable" if width == 12 else "ok"]
            outputs |= {} if width == 13 else {"class_indices": [[1 if width == 14 else 0]]}
        self.answer(200, {"outputs": outputs})


def predict_widths(widths, folder, output):
    """Predict by the failing server in images of these widths: exit code, and its address."""
    folder.mkdir()
    for width in widths:
        PIL.Image.new("RGB", (width, 9)).save(folder / f"{width}.png")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FailingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        arguments = [f"--server={address}", f"--input={folder}", f"--output={output}"]
        code = command_line.call(predict_command.COMMAND, arguments)
        server.shutdown()
    return code, address


def test_requests_that_fail_are_counted_and_the_others_written(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    code, address = predict_widths(range(10, 16), folder, output)
    printed = capsys.readouterr()
    assert code == 1
    assert printed.out == f"2 detections in 2 images, written to {output}\n"
    url = f"{address}/v1/models/detector:predict"
    assert printed.err.splitlines() == [
        f"skipped {folder}/11.png: {url}: 503: out of memory",
        f"skipped {folder}/12.png: --server: not readable",
        f"skipped {folder}/13.png: --server: answers no detections",
        f"skipped {folder}/14.png: --server: has a model of other classes now; run the same "
        "command again",
        "predict: 4 of 6 images had no answer of the server",
    ]
    entries = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    assert [entry["file"] for entry in entries] == ["10.png", "15.png"]
    assert sorted(path.name for path in output.glob("*.png")) == ["10.png", "15.png"]


def test_a_server_that_does_not_answer_ten_times_in_a_row_is_not_asked_again(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    code, _ = predict_widths(range(15, 35), folder, output)
    assert code == 1
    *skipped, end = capsys.readouterr().err.splitlines()
    assert len(skipped) == 10 and skipped[-1].startswith(f"skipped {folder}/30.png: ")
    assert end == (
        "predict: 10 of 16 images had no answer of the server, the last 10 in a row: no more were "
        "sent"
    )
    entries = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    assert [entry["file"] for entry in entries] == [f"{width}.png" for width in range(15, 21)]


def test_a_missing_model_is_one_line(addresses):
    with pytest.raises(ServerError) as error:
        Detector.from_server(addresses["grpc"], "other")
    assert str(error.value) == f"{addresses['grpc']}: Servable not found: other"
    with pytest.raises(ServerError) as error:
        Detector.from_server(addresses["rest"], "other")
    url = f"{addresses['rest']}/v1/models/other:predict"
    path = "/v1/models/other:predict"
    assert str(error.value) == f"{url}: 404: Malformed request: POST {path}"


@pytest.mark.parametrize("address", ["http://localhost:port", "http://"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(ServerError) as error:
        Detector.from_server(address)
    assert str(error.value).startswith(f"{address.rstrip('/')}/v1/models/detector:predict: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:9"])
def test_a_server_that_cannot_be_reached_is_one_line(address, photograph, tmp_path, capsys):
    arguments = [f"--server={address}", f"--input={photograph}", f"--output={tmp_path}"]
    assert command_line.call(predict_command.COMMAND, arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"predict: {address}") and "refused" in line.lower()


@pytest.mark.parametrize("given", [[], ["--model_path=runs/x", "--server=localhost:8500"]])
def test_one_source_of_detections_is_needed(given, tmp_path, capsys):
    arguments = [*given, f"--input={tmp_path}", f"--output={tmp_path}"]
    assert command_line.call(predict_command.COMMAND, arguments) == 1
    assert capsys.readouterr().err == "predict: --model_path or --server is needed, and not both\n"
