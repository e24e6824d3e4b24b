"""The settings: a frozen dataclass for each concern, with its defaults."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: compound-scaled sizes of one EfficientDet (paper, table 1)."""

    name: str = "efficientdet-d0"
    # Number of classes of the data set; there is no background class.
    num_classes: int = 90
    # (height, width) of the network's input in pixels, each at least 64.
    image_size: tuple[int, int] = (512, 512)
    # A name in `efficientdet_tf.backbones.BACKBONES`. Setting another one sets the pixel
    # statistics and the survival probability to those of the new one.
    backbone: str = "efficientnet-b0"
    # Factors of the backbone's published width and depth; below 1 makes networks
    # smaller than any published one.
    backbone_width: float = 1.0
    backbone_depth: float = 1.0
    # Probability with which a residual block survives a training step; 1 is off.
    backbone_survival_prob: float = 1.0
    # Inner convolutions of each head; their width is that of the neck.
    head_repeats: int = 3
    min_level: int = 3
    max_level: int = 7
    # Of the neck and the heads.
    activation: str = "swish"
    # RGB mean and standard deviation on the 0..255 scale.
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    # Layers whose variables' names match this regular expression are not trained,
    # e.g. "backbone/.*"; their BatchNorm works in inference mode. "" is off.
    freeze: str = ""


@dataclasses.dataclass(frozen=True)
class NeckConfig:
    """The feature network between backbone and heads."""

    # A name in `keras_layers.feature_network.NETWORKS`.
    name: str = "bifpn"
    # Width of every level, and of the heads.
    num_filters: int = 64
    # Number of cells, each with weights of its own.
    num_repeats: int = 3
    # How a node fuses its inputs: see `keras_layers.feature_network.METHODS`.
    fusion: str = "fast"
    # What this network has beside the above, e.g. {variant: lin2017} of "fpn", and
    # `conv_block`: "light", "dense", or fields of `keras_layers.conv_block.ConvBlock`. A
    # single one is set by `neck.options.<option>`.
    options: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AnchorConfig:
    """The grid of anchors."""

    # Size of the smallest anchor of a level, in strides of that level.
    scale: float = 4.0
    # Octave steps: sizes are scale * 2 ** (i / num_scales).
    num_scales: int = 3
    # width / height of each anchor at equal area.
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    # An anchor with at least this IoU is assigned to the object.
    positive_iou_threshold: float = 0.5


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Focal loss for classes, Huber (and optionally IoU) loss for boxes."""

    focal_alpha: float = 0.25
    focal_gamma: float = 1.5
    label_smoothing: float = 0.0
    huber_delta: float = 0.1
    box_weight: float = 50.0
    # One of "none", "iou", "giou", "diou", "ciou".
    iou_loss: str = "none"
    iou_weight: float = 1.0
    # "inverse" or "effective": rare classes count more, by the numbers of their objects
    # in the training set (`efficientdet_tf.training.class_weights`); "none" is off.
    class_weights: str = "none"
    # The weight of each class in the class loss, in order of class index; () is 1 for all.
    # Training sets them where `class_weights` is not "none".
    class_weight_values: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images and boxes are, and how bad records are treated."""

    # A data set path, or "digits" for the built-in one; a training needs it.
    train: str = ""
    # "" is that of `train`, where it holds both parts.
    val: str = ""
    # "auto", or one of the formats of `efficientdet_tf.data.FORMATS`.
    format: str = "auto"
    # Folder of the images of a COCO annotation file; "" searches beside it.
    train_images: str = ""
    val_images: str = ""
    # "full" decodes every image before the start, "header" reads headers only.
    verify: str = "full"
    # Stop at the first bad record instead of skipping and counting it.
    strict: bool = False
    # Learn and count the objects that Pascal VOC marks as difficult, which its benchmark ignores.
    use_difficult: bool = False
    # Leave anchors that are half inside a crowd region of COCO out of the class loss; as
    # published, such a region is background in training.
    ignore_crowd: bool = False
    # Keep decoded images in memory: for data sets much smaller than it.
    cache: bool = False


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """What training does to an image (paper, section 5.1)."""

    horizontal_flip: bool = True
    # The image is scaled by a factor drawn from this range, then cropped or
    # padded to the model's size. (1, 1) is off.
    scale_min: float = 0.1
    scale_max: float = 2.0
    # All that follows is off by default, as in the paper.
    # "v0" to "v3", AutoAugment's policies for detection, "rand", RandAugment, or "none".
    policy: str = "none"
    # RandAugment: how many steps one after another, and how strong, 0..10.
    rand_num_layers: int = 2
    rand_magnitude: float = 5.0
    # Brightness, contrast, saturation and hue change by up to this, 0..1.
    color: float = 0.0
    # Probability of a blur.
    blur: float = 0.0
    # Edges get sharper or softer by up to this, 0..1.
    sharpness: float = 0.0
    # Probability that an input is put together from four images.
    mosaic: float = 0.0
    # Probability that another input shines through, with its objects.
    mixup: float = 0.0
    # Probability that a grid of squares, a quarter of the input, is blanked out.
    grid_mask: float = 0.0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer, learning-rate schedule, and moving average of the weights."""

    # "sgd", "adam", "lamb", "sgdw" or "radam". The last three decay kernels by themselves, by
    # `weight_decay` times the learning rate; the last two need tensorflow-addons.
    name: str = "sgd"
    # After so many steps, variables go back to half the way from where they were
    # (https://arxiv.org/abs/1907.08610); needs tensorflow-addons; 0 is off.
    lookahead: int = 0
    # Learning rate at `reference_batch_size` images a step, scaled linearly.
    learning_rate: float = 0.08
    reference_batch_size: int = 64
    # The learning rate of the backbone, as a factor of that of all else.
    backbone_factor: float = 1.0
    momentum: float = 0.9
    # "cosine" reaches zero at the end; "cosine_reference", "polynomial" and
    # "stepwise" are the published implementation's curves.
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    # Learning rate at the first step, as a fraction of the peak.
    warmup_fraction: float = 0.1
    weight_decay: float = 4e-5
    # Every gradient, then all together, are clipped to this L2 norm; 0 is off.
    clip_norm: float = 10.0
    # Decay of the moving average, approached as (1 + n) / (10 + n); 0 is off.
    ema_decay: float = 0.9998


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in what portions, and on which devices."""

    epochs: int = 300
    # Images in a step over all replicas.
    batch_size: int = 64
    # Steps in an epoch; 0 is one pass over the training set.
    steps_per_epoch: int = 0
    # COCO metrics on the validation set every so many epochs.
    eval_interval_epochs: int = 1
    eval_batch_size: int = 8
    # Training ends after so many evaluations without a better AP; 0 is off.
    patience: int = 0
    # Histograms of the weights for TensorBoard every so many epochs; 0 is off.
    histogram_interval_epochs: int = 0
    # Checkpoints of the whole state that are kept to resume from.
    keep_checkpoints: int = 2
    # Steps from one checkpoint within an epoch to the next; 0 writes them after epochs only.
    checkpoint_interval_steps: int = 0
    # "auto", "cpu", "gpu", "mirrored", "multi_worker" or "tpu".
    strategy: str = "auto"
    # Name or grpc:// address of the TPU; "" is that of this environment.
    tpu: str = ""
    # Of activations: "float32", "mixed_float16" or "mixed_bfloat16"; weights are float32.
    precision: str = "float32"
    # Compile the training step with XLA.
    xla: bool = False
    # Parts that each device computes its share of a batch in, one after another, to need less
    # memory. BatchNorm sees the parts.
    gradient_accumulation_steps: int = 1
    # Compute the backbone again in the backward pass instead of keeping what it computed:
    # less memory, more time, the same gradients.
    gradient_checkpointing: bool = False
    # The same numbers bit by bit in every run, at some cost in speed.
    deterministic: bool = False
    # Trained weights to start from: a name in `checkpoints.registry.ENTRIES`, a
    # published checkpoint, a run directory, its weights file, or that of a
    # backbone; "" starts from random weights.
    pretrained: str = ""
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """From raw outputs to detections."""

    # "gaussian" (soft) or "hard".
    nms: str = "gaussian"
    # Suppress within each class, or "global" over all of them.
    nms_scope: str = "per_class"
    # Two boxes above this IoU are one object (hard NMS).
    iou_threshold: float = 0.5
    # Width of the Gaussian of soft-NMS.
    sigma: float = 0.5
    score_threshold: float = 0.001
    # The best (anchor, class) pairs that reach NMS; 0 keeps the best
    # class of every anchor.
    pre_nms_top_k: int = 5000
    max_detections: int = 100
