# The commands of the package in a container, installed from these files:
#
#   docker build -t efficientdet .
#   docker build -t efficientdet:gpu --build-arg EXTRAS=gpu .
#
# See docs/containers.md.
FROM python:3.11-slim

# Extras of setup.py, separated by commas: gpu brings CUDA; video, serving, pretrained, onnx, openvino.
ARG EXTRAS=""

WORKDIR /opt/efficientdet
COPY setup.py pyproject.toml README.md LICENSE ./
COPY efficientdet_tf efficientdet_tf
COPY keras_layers keras_layers
COPY export export
RUN pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

# Any user may write to the home folder, so that --user can name the one of the host.
RUN useradd --create-home --home-dir /home/detector detector \
    && mkdir /home/detector/.cache && chmod 777 /home/detector /home/detector/.cache
ENV HOME=/home/detector \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER detector
WORKDIR /work
ENTRYPOINT ["python", "-m", "efficientdet_tf"]
CMD ["--help"]
