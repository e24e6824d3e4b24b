"""Declarations of all settings: a frozen model for each section.

A line declares type, range or choices, and default; the text below it is the description, which
`docs/settings.md` and `python -m efficientdet_tf settings` print. `Shaping`, `Measuring` and
`Derived` declare the effect of another value on a resumed run.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from efficientdet_tf.backbones import BACKBONES, check_scale, find
from efficientdet_tf.config.declaration import (
    DerivedFromData,
    MeasuresAP,
    Section,
    Shapes,
    named_part,
)
from keras_layers.feature_network import METHODS, NETWORKS, TOP_LEVEL, build_feature_network

T = TypeVar("T")
Shaping = Annotated[T, Shapes()]
# Only whether it is on: optimizers have no variables for a value of 0.
ShapingIfOn = Annotated[T, Shapes("whether it is 0 must stay the same", bool)]
# Only mixed_float16 has a loss scale, around the optimizer.
ShapingIfFloat16 = Annotated[
    T,
    Shapes("whether it is mixed_float16 must stay the same", lambda name: name == "mixed_float16"),
]
Measuring = Annotated[T, MeasuresAP()]
Derived = Annotated[T, DerivedFromData()]
FromTeacher = Annotated[T, DerivedFromData("set from the teacher")]

Fraction = Annotated[float, Field(ge=0, le=1)]
# A positive number; smaller values are mistakes.
Factor = Annotated[float, Field(ge=0.01)]
Rgb = tuple[float, float, float]
Pixels = Annotated[int, Field(ge=64)]
Deviation = Annotated[float, Field(ge=1e-3)]


class ModelConfig(Section):
    """Network: compound-scaled sizes of an EfficientDet (paper, table 1)."""

    name: Shaping[str] = "efficientdet-d0"
    """Name of the architecture, a row of the model table; chosen by `--model`."""
    num_classes: Derived[Shaping[PositiveInt]] = 90
    """Number of classes of the data set; there is no background class."""
    image_size: Shaping[tuple[Pixels, Pixels]] = Field((512, 512), examples=["512", "384x640"])
    """Height and width of the network's input in pixels; one number is a square, and `auto` is
    `auto_image_size`."""
    auto_image_size: bool = False
    """Choose `image_size` from the training set when a run starts: the shape of its images at the
    number of pixels of `image_size`, and up to half more in each direction where anchors then cover
    more of the objects, or where fewer are then below 32 x 32 pixels. The run's config has the
    result."""
    resize: Shaping[Literal["pad", "stretch"]] = "pad"
    """How an image gets the input's shape: scaled with its aspect ratio kept and padded, or
    stretched, as MediaPipe does."""
    backbone: Shaping[named_part(BACKBONES)] = "efficientnet-b0"  # type: ignore[valid-type]
    """Backbone, or the import path of your own. Another one brings its own pixel statistics and
    survival probability."""
    backbone_width: Shaping[float] = Field(1.0, ge=0.1)
    """Factor of the backbone's published width; below 1 is smaller than published."""
    backbone_depth: Shaping[float] = Field(1.0, ge=0.1)
    """Factor of the backbone's published depth; below 1 is smaller than published."""
    backbone_survival_prob: float = Field(1.0, ge=0.01, le=1)
    """Stochastic depth: probability with which the last residual block of the backbone survives
    a training step; 1 is off."""
    head_repeats: Shaping[PositiveInt] = 3
    """Inner convolutions of each head; their width is `neck.num_filters`."""
    head_separable: Shaping[bool] = True
    """Depthwise-separable convolutions in the heads; false is dense ones, as in RetinaNet."""
    head_norm: Shaping[bool] = True
    """BatchNorm in the heads, separate for each level; false is none, as in RetinaNet."""
    min_level: Shaping[int] = Field(3, ge=1, le=TOP_LEVEL)
    """Lowest level of the feature pyramid, whose stride is `2 ** level` pixels; the backbone has
    levels up to 5, from 1 (ResNet from 2)."""
    max_level: Shaping[int] = Field(7, ge=TOP_LEVEL)
    """Highest level of the feature pyramid; above `min_level`, and not below the backbone's
    highest, 5."""
    activation: Shaping[Literal["swish", "relu6", "relu"]] = "swish"
    """Activation of the feature network and the heads."""
    pixel_mean: Shaping[Rgb] = (123.675, 116.28, 103.53)
    """RGB mean that is subtracted from pixels, on the 0..255 scale."""
    pixel_std: Shaping[tuple[Deviation, Deviation, Deviation]] = (58.395, 57.12, 57.375)
    """RGB standard deviation that pixels are divided by, on the 0..255 scale."""
    freeze: Shaping[str] = Field("", examples=["backbone/.*"])
    """Regular expression: layers whose variables' names match are not trained, and their
    BatchNorm uses its moving statistics. Empty is off."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _read_size(cls, size: Any) -> Any:
        """Parse 384x640 as height and width, one number as a square."""
        if isinstance(size, str) and not size.startswith("["):
            size = size.split("x")
            return size * 2 if len(size) == 1 else size
        return (size, size) if isinstance(size, int) else size

    @field_validator("freeze")
    @classmethod
    def _is_regular_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        if self.min_level >= self.max_level:
            raise ValueError("min_level: must be below model.max_level")
        if self.min_level < (finest := find(self.backbone).min_level):
            raise ValueError(f"min_level: the finest of {self.backbone} is {finest}")
        scale = {"width": self.backbone_width, "depth": self.backbone_depth}
        try:
            check_scale(self.backbone, survival_prob=self.backbone_survival_prob, **scale)
        except ValueError as error:
            raise ValueError(f"backbone_{error}") from error
        return self


class NeckConfig(Section):
    """Feature network between backbone and heads."""

    name: Shaping[named_part(NETWORKS)] = "bifpn"  # type: ignore[valid-type]
    """Feature network, or the import path of your own."""
    num_filters: Shaping[PositiveInt] = 64
    """Width of every level of the feature network, and of the heads."""
    num_repeats: Shaping[PositiveInt] = 3
    """Number of cells of the feature network, in sequence, each with its own weights."""
    fusion: Shaping[Literal[METHODS]] = "fast"  # type: ignore[valid-type]
    """Fusion method of a node's inputs: plain sum, or weighted sum as named."""
    options: Shaping[dict[str, Any]] = Field({}, examples=["{variant: lin2017}"])
    """Options specific to the feature network, and `conv_block`: `light`, `dense`, or fields of
    `keras_layers.conv_block.ConvBlock`. Set a single one by `neck.options.<option>`."""

    @model_validator(mode="after")
    def _options_exist(self) -> "NeckConfig":
        # Only this check needs TensorFlow.
        if self.options:
            build_feature_network(**dict(self))
        return self


class AnchorConfig(Section):
    """Anchor grid."""

    scale: Shaping[Factor] = 4.0
    """Size of the smallest anchor of a level, in strides of that level."""
    num_scales: Shaping[PositiveInt] = 3
    """Anchor sizes per octave: size i is `scale * 2 ** (i / num_scales)`."""
    aspect_ratios: Shaping[tuple[Factor, ...]] = Field((1.0, 2.0, 0.5), min_length=1)
    """Width / height of each anchor, at equal area."""
    auto: bool = False
    """Fit `scale` and `aspect_ratios` to the boxes of the training set when a run starts, as
    `python -m efficientdet_tf data anchors` proposes; a pretrained detector keeps its aspect
    ratios. The run's config has the result."""
    positive_iou_threshold: Fraction = 0.5
    """Least IoU at which an anchor is assigned to a ground-truth box."""
    ignore_iou_threshold: Fraction = 1.0
    """Least IoU at which an anchor below `positive_iou_threshold` is excluded from the class loss
    instead of being background; 1 is off, 0.4 is RetinaNet's."""


class LossConfig(Section):
    """Focal loss for classes, Huber (and optionally IoU) loss for boxes."""

    focal_alpha: Fraction = 0.25
    """Alpha of the focal loss: weight of positive anchors; negative ones have 1 - alpha."""
    focal_gamma: NonNegativeFloat = 1.5
    """Gamma of the focal loss: exponent of its modulating factor; 0 is cross-entropy."""
    label_smoothing: Fraction = 0.0
    """Label smoothing of the class loss; 0 is off."""
    huber_delta: float = Field(0.1, ge=1e-6)
    """Delta of the Huber loss: box error at which it turns from quadratic to linear."""
    box_weight: NonNegativeFloat = 50.0
    """Weight of the box loss relative to the class loss."""
    iou_loss: Literal["none", "iou", "giou", "diou", "ciou"] = "none"
    """IoU loss of decoded boxes, in addition to the Huber loss; `none` is off."""
    iou_weight: NonNegativeFloat = 1.0
    """Weight of the IoU loss relative to the class loss."""
    class_weights: Literal["none", "inverse", "effective"] = "none"
    """Class-balanced loss weights from the training set: inverse frequency or effective number of
    samples; `none` is off."""
    class_weight_values: Derived[tuple[NonNegativeFloat, ...]] = ()
    """Weight of each class in the class loss, in order of class index; empty is 1 for all.
    Training sets them where `class_weights` is not `none`."""


class DataConfig(Section):
    """Data sets, and handling of bad records."""

    train: str = ""
    """Path of the training data, or `digits` for the built-in data set. Training needs it."""
    val: Measuring[str] = ""
    """Path of the validation data; empty is that of `train`, if it holds both splits."""
    format: Measuring[str] = Field("auto", examples=["coco", "voc", "yolo", "tfrecord"])
    """Format of the data; `auto` infers it from the path."""
    train_images: str = ""
    """Folder of the training images; empty is where the format has it."""
    val_images: Measuring[str] = ""
    """Folder of the validation images; empty is where the format has it."""
    verify: Literal["auto", "full", "header", "background"] = "auto"
    """Verification of images before training: `full` decodes them, `header` reads headers, and so
    does `background`, which decodes them beside the training; `auto` is `full` for sets of up to
    2,000 images, and `background` for larger ones. Results are cached."""
    strict: bool = False
    """Stop at the first bad record instead of skipping and counting it."""
    use_difficult: Measuring[bool] = False
    """Use objects that Pascal VOC marks as difficult in training and evaluation; its benchmark
    ignores them."""
    ignore_crowd: bool = False
    """Exclude anchors that are half inside a crowd region of COCO from the class loss; as
    published, such a region is background in training."""
    shuffle_buffer: NonNegativeInt = 0
    """Read TFRecord shards in sequence, in runs of 8 MB that come in random order, and shuffle the
    images in a buffer of this many: for object storage and slow disks. 0 reads image by image, in
    a random order of the whole set."""
    service: str = Field("", examples=["grpc://10.0.0.1:5050"])
    """Address of a tf.data service whose workers read, decode and augment the training images, see
    `python -m efficientdet_tf data serve`; empty is this process."""
    cache: bool = False
    """Cache decoded images in memory, for data sets much smaller than the memory. The other images
    of mosaic, MixUp and copy-paste are decoded each time."""
    reduce_jpeg: bool = False
    """Decode JPEG images for training at 1/2, 1/4 or 1/8 of their size where that is at least
    `augmentation.scale_max` times the network's input: faster for photographs of many megapixels,
    and smoother than the resizing of evaluation, which does not reduce them."""

    @model_validator(mode="after")
    def _has_one_way_to_read(self) -> "DataConfig":
        if self.cache and self.shuffle_buffer:
            raise ValueError("shuffle_buffer: images in memory (data.cache) are not read again")
        if self.service and (self.cache or self.shuffle_buffer):
            other = "cache=false" if self.cache else "shuffle_buffer=0"
            raise ValueError(f"service: its workers read image by image; set data.{other}")
        return self


class AugmentationConfig(Section):
    """Augmentation of training images (paper, section 5.1); steps not in the paper are off."""

    horizontal_flip: bool = True
    """Random horizontal flip, with probability 0.5."""
    scale_min: Factor = 0.1
    """Scale jitter: lower bound of the random scale; the image is then cropped or padded to the
    network's input. 1 for both is off."""
    scale_max: float = 2.0
    """Scale jitter: upper bound of the random scale; `scale_min` or more."""
    policy: Literal["none", "v0", "v1", "v2", "v3", "rand"] = "none"
    """AutoAugment for detection, `v0` to `v3`, or RandAugment, `rand`; `none` is off."""
    rand_num_layers: int = Field(2, ge=1, le=10)
    """RandAugment: number of consecutive operations."""
    rand_magnitude: float = Field(5.0, ge=0, le=10)
    """RandAugment: magnitude of each operation."""
    color: Fraction = 0.0
    """Strength of the jitter of brightness, contrast, saturation and hue; 0 is off."""
    blur: Fraction = 0.0
    """Probability of a Gaussian blur."""
    sharpness: Fraction = 0.0
    """Strength of the sharpness jitter; 0 is off."""
    mosaic: Fraction = 0.0
    """Probability of mosaic: an input composed of four images."""
    mixup: Fraction = 0.0
    """Probability of MixUp: another image and its objects are blended in."""
    copy_paste: Fraction = 0.0
    """Probability of copy-paste: objects of another image are pasted in with their boxes, where
    these cover little of other objects."""
    grid_mask: Fraction = 0.0
    """Probability of GridMask: a grid of squares, a quarter of the input, is blanked out."""
    plain_epochs: NonNegativeInt = 0
    """Number of last epochs without mosaic, MixUp, copy-paste and policy, as evaluation sees no
    such images; 15 of 300 in YOLOX (https://arxiv.org/abs/2107.08430); 0 is off."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "AugmentationConfig":
        if self.scale_max < self.scale_min:
            raise ValueError("scale_max: is below augmentation.scale_min")
        return self


class OptimizerConfig(Section):
    """Optimizer, learning-rate schedule, and moving average of the weights."""

    name: Shaping[Literal["sgd", "adam", "lamb", "sgdw", "radam"]] = "sgd"
    """Optimizer. `lamb`, `sgdw` and `radam` have decoupled weight decay of kernels, `weight_decay`
    times the learning rate; the last two need tensorflow-addons."""
    lookahead: ShapingIfOn[NonNegativeInt] = 0
    """Lookahead (https://arxiv.org/abs/1907.08610): steps between two interpolations of the
    weights; 0 is off; needs tensorflow-addons."""
    learning_rate: NonNegativeFloat = 0.08
    """Peak learning rate at `reference_batch_size` images per step; `auto` is `auto_learning_rate`.
    With another `training.batch_size` it is scaled: linearly for `sgd` and `sgdw`, with the square
    root for the others."""
    auto_learning_rate: bool = False
    """Choose `learning_rate` by a learning-rate range test (https://arxiv.org/abs/1506.01186) of up
    to 100 steps when a run starts. The run's config has the result."""
    reference_batch_size: PositiveInt = 64
    """Batch size for which `learning_rate` is given, in images per step."""
    backbone_factor: NonNegativeFloat = 1.0
    """Learning rate of the backbone, as a factor of the other layers' learning rate."""
    momentum: ShapingIfOn[Fraction] = 0.9
    """Momentum of `sgd` and `sgdw`; beta 1 of the others."""
    schedule: Literal["cosine", "cosine_reference", "polynomial", "stepwise"] = "cosine"
    """Decay of the learning rate. `cosine` reaches zero at the end; the others are the published
    implementation's curves."""
    warmup_epochs: NonNegativeFloat = 1.0
    """Warm-up: epochs of linear increase of the learning rate to its peak; at most half of the
    training."""
    warmup_fraction: Fraction = 0.1
    """Learning rate at the first step, as a fraction of the peak."""
    weight_decay: NonNegativeFloat = 4e-5
    """Weight decay of convolution kernels."""
    clip_norm: NonNegativeFloat = 10.0
    """L2 norm to which each gradient, then the global gradient, is clipped; 0 is off."""
    ema_decay: ShapingIfOn[Fraction] = 0.9998
    """Decay of the exponential moving average of the weights, approached as `(1 + n) / (10 + n)`;
    0 is off."""


class TrainingConfig(Section):
    """Training: length, batches, intervals, devices and precision."""

    epochs: PositiveInt = 300
    """Passes over the training set, or over `steps_per_epoch` steps; `auto` is `auto_epochs`."""
    auto_epochs: bool = False
    """Raise `epochs` for a small training set when a run starts, up to 300, until they are 2,400
    steps. The run's config has the result."""
    batch_size: PositiveInt = 64
    """Global batch size: images per step, over all devices; `auto` is `auto_batch_size`."""
    auto_batch_size: bool = False
    """Choose `batch_size`, `gradient_accumulation_steps` and `gradient_checkpointing` when a run
    starts: at most `batch_size` images, fewer for a small training set, and what the memory needs
    by its estimate and a real step. The run's config has the result."""
    steps_per_epoch: NonNegativeInt = 0
    """Steps in an epoch; 0 is one pass over the training set."""
    eval_interval_epochs: PositiveInt = 1
    """Epochs from one evaluation on the validation set to the next."""
    eval_batch_size: PositiveInt = 8
    """Images per batch of an evaluation, on each device."""
    patience: NonNegativeInt = 0
    """Early stopping: number of evaluations without AP improvement; 0 is off."""
    histogram_interval_epochs: NonNegativeInt = 0
    """Epochs from one histogram of the weights in TensorBoard to the next; 0 is off."""
    max_recoveries: NonNegativeInt = 3
    """How often a run whose loss is NaN, infinite or 100 times that of the epoch before returns to
    its last checkpoint with half the learning rate; 0 ends it. Not with several workers."""
    keep_checkpoints: PositiveInt = 2
    """Number of newest checkpoints kept to resume from."""
    checkpoint_interval_steps: NonNegativeInt = 0
    """Steps from one checkpoint within an epoch to the next; 0 writes them after epochs only."""
    strategy: Literal["auto", "cpu", "gpu", "mirrored", "multi_worker", "tpu"] = "auto"
    """Training devices; `auto` uses the TPU that `tpu` names, else all workers of `TF_CONFIG`, else
    all GPUs, else the CPU."""
    tpu: str = ""
    """Name or grpc:// address of the TPU; empty is that of the environment."""
    precision: ShapingIfFloat16[Literal["float32", "mixed_float16", "mixed_bfloat16"]] = "float32"
    """Precision of activations; weights are float32."""
    xla: bool = False
    """Compile the steps of training and of its evaluations with XLA."""
    gradient_accumulation_steps: PositiveInt = 1
    """Gradient accumulation: number of micro-batches per batch and device, to save memory.
    BatchNorm uses the statistics of micro-batches."""
    gradient_checkpointing: bool = False
    """Recompute the backbone in the backward pass instead of saving its tensors: less memory, more
    time, the same gradients."""
    deterministic: bool = False
    """Bitwise reproducible runs, at some cost in speed."""
    pretrained: str = Field("", examples=["imagenet", "efficientdet-d0", "runs/mine"])
    """Weights to start from: a published model by name, a published checkpoint, a run directory or
    its weights file, `imagenet` or a weights file for the backbone. Empty is random weights."""
    batch_norm_momentum: Fraction = 0.99
    """BatchNorm: share of its moving statistics that a training step keeps; a lower one follows the
    data faster, with more noise."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Seed of initial weights, image order and augmentation."""


class DistillationConfig(Section):
    """Distillation: a trained detector, the teacher, gives further targets of training."""

    teacher: str = Field("", examples=["runs/large"])
    """Run directory of the teacher, whose best weights are used: any network with the same classes
    and anchors. Empty is off."""
    teacher_digest: FromTeacher[Shaping[str]] = ""
    """SHA-256 of the teacher's weights, first 16 digits."""
    class_weight: NonNegativeFloat = 1.0
    """Weight of the class loss between student and teacher."""
    box_weight: NonNegativeFloat = 50.0
    """Weight of the box loss between student and teacher, where the teacher detects something."""
    score_threshold: Fraction = 0.3
    """Least score of the teacher at which an anchor is in the box loss."""
    unlabeled: str = Field("", examples=["images/unlabeled"])
    """Folder, which is searched in depth, or glob pattern of images without annotations, for which
    the teacher's outputs are the only targets. Empty is none."""
    unlabeled_share: float = Field(0.5, ge=0.05, le=0.95)
    """Share of the images without annotations among those of a batch."""

    @model_validator(mode="after")
    def _has_targets(self) -> "DistillationConfig":
        if self.unlabeled and not self.teacher:
            raise ValueError(
                "unlabeled: images without annotations need a teacher; name one as "
                "distillation.teacher (--teacher=runs/large)"
            )
        return self


class DetectionConfig(Section):
    """Postprocessing: from raw outputs to detections."""

    nms: Measuring[Literal["gaussian", "hard"]] = "gaussian"
    """NMS: soft (`gaussian`) or `hard`."""
    nms_scope: Measuring[Literal["per_class", "global"]] = "per_class"
    """NMS within each class, or over all classes together."""
    iou_threshold: Measuring[Fraction] = 0.5
    """IoU above which hard NMS drops the box of the lower score."""
    sigma: Measuring[NonNegativeFloat] = 0.5
    """Sigma of soft-NMS: width of the Gaussian that lowers scores."""
    score_threshold: Measuring[Fraction] = 0.001
    """Detections with a lower score are dropped."""
    pre_nms_top_k: Measuring[NonNegativeInt] = 5000
    """Pre-NMS top-k: number of (anchor, class) pairs of highest score passed to NMS; 0 passes the
    best class of every anchor."""
    max_detections: Measuring[PositiveInt] = 100
    """Largest number of detections per image."""
