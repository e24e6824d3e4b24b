"""FPN and PAFPN beyond the contract: variants, published counts, another implementation."""

import numpy as np
import pytest
from official.vision.modeling.decoders import fpn as official_fpn

from keras_layers.fpn import FPN
from keras_layers.panet import PAFPN

RETINANET = {"separable": False, "activation": None, "norm": False}


def test_the_variants_of_fpn_are_the_same_where_convolutions_do_nothing(
    features_of, identity_weights
):
    features = features_of((128, 128), widths=(8, 8, 8))
    upsampled = [
        x.numpy().repeat(16 // x.shape[1], 1).repeat(16 // x.shape[1], 2) for x in features.values()
    ]
    for variant in ("repeatable", "lin2017"):
        network = FPN(num_filters=8, variant=variant, conv_block=RETINANET)
        network(features)
        identity_weights(network)
        outputs = network(features)
        np.testing.assert_array_equal(outputs[7], features[7])
        np.testing.assert_allclose(outputs[3], sum(upsampled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "conv_block", "options", "count"),
    [
        # The configuration of tf-models-official's decoder.
        (
            *("output", {"separable": False, "activation": None}),
            *({"projection_norm": False}, 3_871_232),
        ),
        # The neck of mmdetection's RetinaNet.
        ("input", RETINANET, {}, 7_997_440),
    ],
)
def test_parameters_with_a_resnet(source, conv_block, options, count, features_of, num_parameters):
    features = features_of((64, 64), widths=(512, 1024, 2048), num_filters=1, batch_size=1)
    network = FPN(
        num_filters=256,
        conv_block=conv_block,
        variant="lin2017",
        coarse_levels="strided",
        source=source,
        **options,
    )
    network(features)
    assert num_parameters(network) == count


def test_agrees_with_the_fpn_of_tf_models(features_of):
    features = features_of((128, 64), widths=(16, 24, 32), num_filters=1)
    network = FPN(
        num_filters=8,
        variant="lin2017",
        coarse_levels="strided",
        conv_block={"separable": False, "activation": None},
        projection_norm=False,
    )
    network(features)
    random = np.random.default_rng(2)
    for weight in network.weights:
        # Where BatchNorm does nothing: theirs comes after the strided convolutions.
        if "/bn/" not in weight.name:
            weight.assign(random.normal(size=weight.shape) * 0.2)
        elif "gamma" in weight.name:
            weight.assign(np.full(weight.shape, np.sqrt(1.001)))
    specs = {str(level): features[level].shape for level in (3, 4, 5)}
    theirs = official_fpn.FPN(specs, num_filters=8)
    # The nodes 0 and 1 are the sums of the levels 4 and 3.
    places = {
        **{f"projection_{level}": f"lateral_{level}" for level in (3, 4, 5)},
        **{f"cell_0_node_{level - 1}/block": f"post_hoc_{level}" for level in (3, 4, 5)},
        **{f"coarse_{level}": f"coarser_{level}" for level in (6, 7)},
    }
    ours = {weight.name: weight for weight in network.weights}
    for place, name in places.items():
        for kind in ("kernel", "bias"):
            [value] = [w for n, w in ours.items() if f"/{place}/conv/{kind}" in n]
            getattr(theirs.get_layer(name), kind).assign(value)
    for level in range(3, 8):
        theirs.get_layer(f"norm_{level}").gamma.assign(np.full(8, np.sqrt(1.001)))
    expected = theirs({str(level): features[level] for level in (3, 4, 5)}, training=False)
    for level, x in network(features).items():
        np.testing.assert_allclose(x, expected[str(level)], rtol=1e-4, atol=1e-4)


def test_the_top_down_path_of_pafpn_is_an_fpn(features_of, randomize):
    features = features_of((64, 64))
    network = PAFPN(num_filters=8, downsample="conv")
    fpn = FPN(num_filters=8, variant="lin2017")
    for layer in (network, fpn):
        layer(features)
    randomize(network)
    values = {weight.name.partition("/")[2]: weight for weight in network.weights}
    for weight in fpn.weights:
        weight.assign(values[weight.name.partition("/")[2]])
    # The finest level has no part in the bottom-up path.
    np.testing.assert_array_equal(network(features)[3], fpn(features)[3])


def test_the_bottom_up_path_of_the_paper_ends_in_relu(features_of):
    features = features_of((64, 64))
    outputs = PAFPN(num_filters=8, downsample="conv")(features)
    assert all(np.min(outputs[level]) >= 0 for level in (4, 5, 6, 7))
    assert np.min(outputs[3]) < 0
