"""Classes of COCO, which the published models were trained on."""

from efficientdet_tf.data.records import LabelMap

# By category id, from 1; those without a name are in no annotation.
_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, , stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, , backpack, umbrella, , , handbag, tie, suitcase, frisbee, skis,
    snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
    tennis racket, bottle, , wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
    orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, ,
    dining table, , , toilet, , tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, , book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""

# Of the 90 outputs of the published models.
COCO_LABELS = LabelMap(
    ids=tuple(range(1, 91)),
    names=tuple(
        name.strip() or f"unused {number}" for number, name in enumerate(_NAMES.split(","), 1)
    ),
)
