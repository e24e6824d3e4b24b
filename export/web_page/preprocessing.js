// Preprocessing of an image to the network's input, number for number as
// `efficientdet_tf.data.preprocessing.resize` computes it in float32.

const {fround} = Math;

/**
 * Resize an image to the network's input.
 *
 * @param {ImageData} image RGBA pixels.
 * @param {{height: number, width: number, resize: string, padding: number[]}} input
 *     Size of the network's input in pixels; "pad" to keep the aspect ratio and pad at the bottom
 *     and right, or "stretch"; RGB of the padding, 0 to 255.
 * @return {{pixels: Float32Array, scale: number[]}} RGB [height, width, 3], 0 to 255; and original
 *     pixels per network pixel, vertically and horizontally.
 */
export function resizeToInput(image, input) {
  const original = [image.height, image.width];
  const limit = [input.height, input.width];
  let scaled = limit;
  let ratios = limit.map((side, i) => fround(side / original[i]));
  if (input.resize === 'pad') {
    ratios = [Math.min(...ratios), Math.min(...ratios)];
    // Truncated as in the published models, but never zero.
    scaled = original.map((side, i) => Math.max(1, Math.trunc(fround(side * ratios[i]))));
  }
  const pixels = new Float32Array(input.height * input.width * 3);
  if (scaled[0] < input.height || scaled[1] < input.width) {
    for (let i = 0; i < pixels.length; i++) pixels[i] = input.padding[i % 3];
  }
  interpolate(image, scaled, pixels, input.width);
  return {pixels, scale: ratios.map((ratio) => fround(1 / ratio))};
}

/** Resize bilinearly, without antialiasing, into the top left corner of `pixels`. */
function interpolate(image, [height, width], pixels, rowLength) {
  const rows = positions(image.height, height);
  const columns = positions(image.width, width);
  const {data} = image;
  for (let y = 0; y < height; y++) {
    const top = rows.lower[y] * image.width;
    const bottom = rows.upper[y] * image.width;
    for (let x = 0; x < width; x++) {
      const left = columns.lower[x];
      const right = columns.upper[x];
      const at = 3 * (y * rowLength + x);
      for (let channel = 0; channel < 3; channel++) {
        const topLeft = data[4 * (top + left) + channel];
        const topRight = data[4 * (top + right) + channel];
        const bottomLeft = data[4 * (bottom + left) + channel];
        const bottomRight = data[4 * (bottom + right) + channel];
        const above = topLeft + (topRight - topLeft) * columns.share[x];
        const below = bottomLeft + (bottomRight - bottomLeft) * columns.share[x];
        pixels[at + channel] = above + (below - above) * rows.share[y];
      }
    }
  }
}

/** The two source pixels of each target pixel along an axis, and the share of the upper one. */
function positions(size, scaledSize) {
  const step = fround(size / scaledSize);
  const lower = new Int32Array(scaledSize);
  const upper = new Int32Array(scaledSize);
  const share = new Float32Array(scaledSize);
  for (let i = 0; i < scaledSize; i++) {
    const center = fround(fround((i + 0.5) * step) - 0.5);
    lower[i] = Math.max(Math.floor(center), 0);
    upper[i] = Math.min(Math.ceil(center), size - 1);
    share[i] = center - Math.floor(center);
  }
  return {lower, upper, share};
}
