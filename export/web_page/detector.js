// Detector of a model that `python -m export --format=web` has written; it runs in the browser
// and sends nothing anywhere.

import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

import {clip, postprocess} from './postprocessing.js';
import {resizeToInput} from './preprocessing.js';

/** Detector of objects in images. */
export class Detector {
  /**
   * Load the model and its runtime.
   *
   * @param {string} folder URL of the exported folder, with a slash at its end. Default "./".
   * @return {Promise<Detector>}
   */
  static async load(folder = './') {
    const [description, anchors] = await Promise.all([
      fetchFile(`${folder}model.json`).then((response) => response.json()),
      fetchFile(`${folder}anchors.bin`).then((response) => response.arrayBuffer()),
      loadLiteRt(`${folder}litert/wasm/`),
    ]);
    const model = await loadAndCompile(`${folder}model.tflite`, {accelerator: 'wasm'});
    return new Detector(description, new Float32Array(anchors), model);
  }

  constructor(description, anchors, model) {
    /** Class names, by class index. */
    this.classes = description.classes;
    /** Section `detection` of the config; its thresholds may be changed. */
    this.settings = description.detection;
    this.input = description.input;
    this.anchors = anchors;
    this.model = model;
  }

  /**
   * Detect in an image.
   *
   * @param {ImageData} image RGBA pixels of any size.
   * @return {Promise<{detections: Array, milliseconds: object}>} Detections, best first: `box` as
   *     ymin, xmin, ymax, xmax in pixels of the image, `score`, `classIndex` and `name`; and the
   *     time of the three steps.
   */
  async detect(image) {
    const began = performance.now();
    const {pixels, scale} = resizeToInput(image, this.input);
    const resized = performance.now();
    const [deltas, logits] = await this.run(pixels);
    const computed = performance.now();
    const inputSize = [this.input.height, this.input.width];
    const found = postprocess(deltas, logits, this.anchors, this.settings, inputSize);
    const detections = found.map(({box, score, classIndex}) => ({
      box: clip(box.map((value, i) => value * scale[i % 2]), [image.height, image.width]),
      score,
      classIndex,
      name: this.classes[classIndex],
    }));
    return {
      detections,
      milliseconds: {
        resize: resized - began,
        network: computed - resized,
        nms: performance.now() - computed,
      },
    };
  }

  /** Run the network: box deltas [N, 4] and class logits [N, classes]. */
  async run(pixels) {
    const input = new Tensor(pixels, [1, this.input.height, this.input.width, 3]);
    const outputs = await this.model.run(input);
    const values = outputs.map((output) => output.toTypedArray().slice());
    // They lie in the memory of the runtime, which has no garbage collector.
    for (const tensor of [input, ...outputs]) tensor.delete();
    return values;
  }
}

async function fetchFile(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}
