// Postprocessing of the network's raw outputs: pre-NMS top-k, box decoding and NMS, as
// `keras_layers.postprocessing.Postprocessing` does.

// exp(4.135) is 1000 / 16: larger boxes are cut to this factor of their anchor.
const MAX_LOG_SIZE = Math.log(1000 / 16);

/**
 * Compute detections.
 *
 * @param {Float32Array} deltas Box deltas [N, 4]: ty, tx, th, tw.
 * @param {Float32Array} logits Class logits [N, classes].
 * @param {Float32Array} anchors Anchors [N, 4]: ymin, xmin, ymax, xmax in network pixels.
 * @param {object} settings The section `detection` of the config.
 * @param {number[]} inputSize Height and width of the network's input in pixels.
 * @return {Array<{box: number[], score: number, classIndex: number}>} Best first; boxes as
 *     ymin, xmin, ymax, xmax in network pixels.
 */
export function postprocess(deltas, logits, anchors, settings, inputSize) {
  const candidates = selectCandidates(logits, anchors.length / 4, settings);
  for (const candidate of candidates) {
    candidate.box = decode(deltas, anchors, 4 * candidate.anchor);
  }
  const groups = settings.nms_scope === 'global' ? [candidates] : byClass(candidates);
  const kept = groups.flatMap((group) => suppress(group, settings));
  // Stable: equal scores stay in the order of the classes.
  kept.sort((a, b) => b.score - a.score);
  const detections = kept.slice(0, settings.max_detections);
  if (settings.nms_scope === 'global') {
    for (const detection of detections) detection.box = clip(detection.box, inputSize);
  }
  return detections;
}

/** Cut a box to (height, width). */
export function clip(box, size) {
  return box.map((value, i) => Math.min(Math.max(value, 0), size[i % 2]));
}

/** Select the (anchor, class) pairs of highest score, or the best class of each anchor. */
function selectCandidates(logits, numAnchors, settings) {
  const numClasses = logits.length / numAnchors;
  const {score_threshold: threshold, pre_nms_top_k: topK} = settings;
  // Slightly below the threshold's logit: NMS compares the exact scores.
  const floor = Math.log(threshold / (1 - threshold)) - 1e-3;
  const candidates = [];
  for (let anchor = 0; anchor < numAnchors; anchor++) {
    const begin = anchor * numClasses;
    let best = begin;
    for (let i = begin; i < begin + numClasses; i++) {
      if (logits[i] > logits[best]) best = i;
      if (topK && logits[i] >= floor) {
        candidates.push({anchor, classIndex: i - begin, logit: logits[i]});
      }
    }
    if (!topK && logits[best] >= floor) {
      candidates.push({anchor, classIndex: best - begin, logit: logits[best]});
    }
  }
  if (topK) {
    candidates.sort((a, b) => b.logit - a.logit);
    candidates.length = Math.min(candidates.length, topK);
  }
  for (const candidate of candidates) {
    candidate.score = 1 / (1 + Math.exp(-candidate.logit));
  }
  return candidates;
}

function decode(deltas, anchors, at) {
  const height = anchors[at + 2] - anchors[at];
  const width = anchors[at + 3] - anchors[at + 1];
  const y = deltas[at] * height + anchors[at] + height / 2;
  const x = deltas[at + 1] * width + anchors[at + 1] + width / 2;
  const h = Math.exp(Math.min(deltas[at + 2], MAX_LOG_SIZE)) * height;
  const w = Math.exp(Math.min(deltas[at + 3], MAX_LOG_SIZE)) * width;
  return [y - h / 2, x - w / 2, y + h / 2, x + w / 2];
}

function byClass(candidates) {
  const groups = new Map();
  for (const candidate of candidates) {
    if (!groups.has(candidate.classIndex)) groups.set(candidate.classIndex, []);
    groups.get(candidate.classIndex).push(candidate);
  }
  return [...groups.entries()].sort(([a], [b]) => a - b).map(([, group]) => group);
}

/** Apply hard NMS or soft-NMS; a score falls with each box of higher score that overlaps. */
function suppress(candidates, settings) {
  const {iou_threshold: iouThreshold, score_threshold: scoreThreshold} = settings;
  const isSoft = settings.nms === 'gaussian' && settings.sigma > 0;
  const queue = candidates.filter(({score}) => score > scoreThreshold);
  // The best is the last; of equal ones, the first is later.
  queue.reverse().sort((a, b) => a.score - b.score);
  const kept = [];
  while (queue.length && kept.length < settings.max_detections) {
    const candidate = queue.pop();
    const before = candidate.score;
    // Those that were kept before it last stood in the queue have lowered its score already.
    for (let i = kept.length - 1; i >= (candidate.seen ?? 0); i--) {
      const overlap = iou(candidate.box, kept[i].box);
      // Soft-NMS has no threshold of overlap.
      if (isSoft) candidate.score *= Math.exp(-(overlap * overlap) / settings.sigma);
      else if (overlap > iouThreshold) candidate.score = 0;
      if (candidate.score <= scoreThreshold) break;
    }
    candidate.seen = kept.length;
    if (candidate.score === before) kept.push(candidate);
    else if (candidate.score > scoreThreshold) insert(queue, candidate);
  }
  return kept;
}

/** Insert into a queue that is sorted by ascending score. */
function insert(queue, candidate) {
  let [low, high] = [0, queue.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (queue[middle].score < candidate.score) low = middle + 1;
    else high = middle;
  }
  queue.splice(low, 0, candidate);
}

function iou(a, b) {
  const height = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const width = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const intersection = height * width;
  const union = area(a) + area(b) - intersection;
  return union > 0 ? intersection / union : 0;
}

function area([ymin, xmin, ymax, xmax]) {
  return (ymax - ymin) * (xmax - xmin);
}
