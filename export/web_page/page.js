// The page: an image is chosen, dropped or filmed; its detections are drawn and listed.

import {Detector} from './detector.js';

const element = (id) => document.getElementById(id);
const picture = element('picture');
const context = picture.getContext('2d', {willReadFrequently: true});
const video = document.createElement('video');
// iPhones would show it in full screen, and give no frames.
video.playsInline = video.muted = true;

let detector;
// What was detected last, drawn again when the threshold moves.
let shown;

async function start() {
  try {
    detector = await Detector.load();
  } catch (error) {
    const hint = location.protocol === 'file:' ? 'Open the page by a web server, for example ' +
      'python -m http.server' : error.message;
    say(`The model cannot be loaded. ${hint}`);
    return;
  }
  const threshold = element('threshold');
  threshold.value = Math.max(threshold.value, detector.settings.score_threshold);
  threshold.addEventListener('input', show);
  element('file').addEventListener('change', ({target}) => open(target.files[0]));
  element('camera').addEventListener('click', () => video.srcObject ? stop() : film());
  document.addEventListener('dragover', drag);
  document.addEventListener('dragleave', drag);
  document.addEventListener('drop', (event) => {
    drag(event);
    open(event.dataTransfer.files[0]);
  });
  element('file').disabled = false;
  element('camera').disabled = !navigator.mediaDevices;
  show();
  say('Choose an image, or drop one here.');
}

function drag(event) {
  event.preventDefault();
  document.body.classList.toggle('dragging', event.type === 'dragover');
}

/** Detect in an image file. */
async function open(file) {
  if (!file) return;
  stop();
  let bitmap;
  try {
    // Pixels as stored, without the monitor's colours: those the model was trained with.
    bitmap = await createImageBitmap(file, {colorSpaceConversion: 'none'});
  } catch {
    say(`${file.name} is not an image that this browser can show.`);
    return;
  }
  say(`Looking at ${file.name}.`);
  await detectIn(bitmap, bitmap.width, bitmap.height);
}

async function film() {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: {facingMode: 'environment'},
    });
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`);
    return;
  }
  await video.play();
  element('camera').textContent = 'Stop the camera';
  while (video.srcObject) {
    await detectIn(video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
  }
}

function stop() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  element('camera').textContent = 'Use the camera';
}

async function detectIn(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const pixels = canvas.getContext('2d', {willReadFrequently: true});
  pixels.drawImage(source, 0, 0);
  const image = pixels.getImageData(0, 0, width, height);
  try {
    shown = {image, ...await detector.detect(image)};
  } catch (error) {
    say(`The model failed: ${error.message}`);
    stop();
    return;
  }
  const {resize, network, nms} = shown.milliseconds;
  show();
  const time = [resize, network, nms].map((value) => value.toFixed(1));
  say(`${width} × ${height} pixels; ${time[0]} ms to resize, ${time[1]} ms for the network, ` +
      `${time[2]} ms for NMS.`);
}

/** Draw and list the detections above the threshold. */
function show() {
  const threshold = Number(element('threshold').value);
  element('threshold-value').textContent = threshold.toFixed(2);
  if (!shown) return;
  const detections = shown.detections.filter(({score}) => score >= threshold);
  picture.width = shown.image.width;
  picture.height = shown.image.height;
  context.putImageData(shown.image, 0, 0);
  for (const detection of detections.toReversed()) draw(detection);
  list(detections);
  picture.hidden = element('detections').hidden = false;
}

function draw({box: [ymin, xmin, ymax, xmax], score, classIndex, name}) {
  const size = Math.max(12, picture.width / 45);
  const color = `hsl(${(classIndex * 137.5) % 360} 80% 40%)`;
  context.strokeStyle = context.fillStyle = color;
  context.lineWidth = size / 6;
  context.strokeRect(xmin, ymin, xmax - xmin, ymax - ymin);
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = 'top';
  const text = `${name} ${score.toFixed(2)}`;
  // Inside the picture, also where the box begins above it.
  const top = Math.max(ymin - 1.3 * size, 0);
  context.fillRect(xmin, top, context.measureText(text).width + size / 2, 1.3 * size);
  context.fillStyle = 'white';
  context.fillText(text, xmin + size / 4, top + 0.15 * size);
}

function list(detections) {
  const rows = detections.map(({box, score, name}) => {
    const row = document.createElement('tr');
    // Exact, for programs; what is shown is rounded.
    row.dataset.box = JSON.stringify(box);
    row.dataset.score = score;
    const [ymin, xmin, ymax, xmax] = box.map(Math.round);
    for (const text of [name, score.toFixed(2), `${xmin}, ${ymin}, ${xmax}, ${ymax}`]) {
      row.appendChild(document.createElement('td')).textContent = text;
    }
    return row;
  });
  element('detections').tBodies[0].replaceChildren(...rows);
}

function say(text) {
  element('status').textContent = text;
}

start();
