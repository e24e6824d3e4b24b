"""Client of a model in TensorFlow Serving, exported by `python -m export --format=serving`."""

import base64
import http.client
import io
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import PIL.Image

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.runtimes import Found

_SECONDS = 60
# A server refuses more in one request than its largest batch: that of `batching.config`.
_MOST_AT_ONCE = 8


class ServerError(UserError):
    """A server that cannot be reached, or refuses a request."""


class Connection(Protocol):
    """Connection to one model of a server."""

    def call(self, signature: str, **inputs: Any) -> Mapping[str, np.ndarray]:
        """Call a signature with lists of bytes or numbers.

        Raises:
          ServerError: when the server cannot be reached or refuses; the message is one line.
        """


def connect(address: str, model: str) -> Connection:
    """Connect to a server.

    Args:
      address: "host:port" for gRPC, "http://host:port" or "https://..." for REST.
      model: name of the model on the server.

    Raises:
      ServerError: if gRPC's packages are not installed.
    """
    if address.startswith(("http://", "https://")):
        return RestConnection(address.rstrip("/"), model)
    return GrpcConnection(address, model)


class GrpcConnection:
    """Connection by gRPC, `tensorflow.serving.PredictionService`."""

    def __init__(self, address: str, model: str) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise ServerError(
                f"--server={address}: gRPC needs tensorflow-serving-api; run pip install "
                "'.[serving]', or use http://host:port"
            ) from error
        self._address, self._model = address, model
        # Images of any size.
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = grpc.insecure_channel(address, options)
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def call(self, signature: str, **inputs: Any) -> Mapping[str, np.ndarray]:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        for name, values in inputs.items():
            dtype = None if isinstance(values[0], bytes) else tf.int32
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype))
        try:
            response = self._service.Predict(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise ServerError(f"{self._address}: {_first_line(error.details())}") from error
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


class RestConnection:
    """Connection by REST, `/v1/models/MODEL:predict`."""

    def __init__(self, address: str, model: str) -> None:
        self._url = f"{address}/v1/models/{model}:predict"

    def call(self, signature: str, **inputs: Any) -> Mapping[str, np.ndarray]:
        columns = {name: list(map(_to_json, values)) for name, values in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as response:
                answer = json.load(response)
            return {name: np.array(values) for name, values in answer["outputs"].items()}
        except urllib.error.HTTPError as error:
            raise ServerError(f"{self._url}: {error.code}: {_refusal(error)}") from error
        # The second: an address that is none, or a server of another protocol.
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"{self._url}: {_first_line(str(reason))}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ServerError(f"{self._url}: answers no predictions") from error


class ServerBackend:
    """Served model as a runtime of `Detector`, one image per request."""

    def __init__(self, connection: Connection, num_classes: int) -> None:
        self._connection, self._num_classes = connection, num_classes

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> Found:
        file = io.BytesIO()
        # Without loss, so that the server sees the same pixels.
        PIL.Image.fromarray(image).save(file, "PNG", compress_level=1)
        answer = self._connection.call("serving_default", image_bytes=[file.getvalue()])
        try:
            status, found = _text(answer["status"][0]), _detections(answer)
        except (LookupError, ValueError, TypeError) as error:
            raise ServerError("--server: answers no detections") from error
        if status != "ok":
            raise ServerError(f"--server: {status}")
        if found[2].max(initial=0) >= self._num_classes:
            raise ServerError(
                "--server: has a model of other classes now; run the same command again"
            )
        return found


def label_map(connection: Connection) -> LabelMap:
    """Ask a server for the classes of its model.

    Raises:
      ServerError: when the model was not exported by this program.
    """
    try:
        indices = range(int(connection.call("classes", class_indices=[0])["num_classes"][0]))
        found = [
            connection.call("classes", class_indices=list(indices[first : first + _MOST_AT_ONCE]))
            for first in indices[::_MOST_AT_ONCE]
        ]
        names = [name for part in found for name in part["names"]]
        ids = tuple(int(id) for part in found for id in part["ids"])
        return LabelMap(ids, tuple(map(_text, names)))
    except ServerError:
        raise
    except (LookupError, ValueError) as error:
        raise ServerError("--server: not a model of python -m export --format=serving") from error


def _detections(answer: Mapping[str, np.ndarray]) -> Found:
    count = int(answer["num_detections"][0])
    return (
        answer["boxes"][0, :count].astype(np.float32).reshape(-1, 4),
        answer["scores"][0, :count].astype(np.float32),
        answer["class_indices"][0, :count].astype(np.int32),
    )


def _text(value: bytes | str) -> str:
    """Return a string of an answer, which is bytes by gRPC."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _to_json(value: bytes | int) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _refusal(error: urllib.error.HTTPError) -> str:
    """Return the server's reason, its field `error`."""
    try:
        return _first_line(json.load(error)["error"])
    except (ValueError, LookupError, TypeError, OSError):
        return str(error.reason)


def _first_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines() or ["refused"]
    return lines[0]
