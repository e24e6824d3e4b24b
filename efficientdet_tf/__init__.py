"""EfficientDet object detection in TensorFlow and Keras."""
