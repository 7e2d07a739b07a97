/* Open, shrink and compare pictures in the browser. */

const FORMATS = ["image/png", "image/jpeg", "image/webp"];
const THUMBNAIL = 160; // pixels of the longer side
const COMPARED = 1024;
const VISIBLE = 8; // of 255: larger differences count

/** Open a file: {file, url, width, height, small (a copy as a data URL)}. Throws an Error if it isn't a picture. */
export async function open(file) {
  if (!FORMATS.includes(file.type)) throw new Error(`${file.name} isn't a PNG, JPEG or WebP file.`);
  const url = URL.createObjectURL(file);
  try {
    const image = await load(url);
    return { file, url, width: image.naturalWidth, height: image.naturalHeight, small: shrink(image) };
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`${file.name} can't be read as a picture.`);
  }
}

/** Whether two pictures have the same shape: scaled to the same width, their heights differ by a pixel at most. */
export function sameShape(a, b) {
  return Math.abs((b.height * a.width) / b.width - a.height) <= 1;
}

/**
 * Draw |source - edited| for each channel, at the source's size, at most 1024 pixels wide or high.
 *
 * Returns the share of pixels, 0..1, with a channel that differs by more than 8 of 255, and the size drawn.
 */
export async function drawDifference(canvas, source, edited) {
  const scale = Math.min(1, COMPARED / Math.max(source.width, source.height));
  paint(canvas, await load(source.url), source.width * scale, source.height * scale);
  const other = document.createElement("canvas");
  paint(other, await load(edited.url), canvas.width, canvas.height);
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "difference";
  context.drawImage(other, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  let changed = 0;
  for (let i = 0; i < data.length; i += 4) changed += Math.max(data[i], data[i + 1], data[i + 2]) > VISIBLE;
  return { share: changed / (data.length / 4), width: canvas.width, height: canvas.height };
}

function shrink(image) {
  const scale = Math.min(1, THUMBNAIL / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  paint(canvas, image, image.naturalWidth * scale, image.naturalHeight * scale);
  return canvas.toDataURL("image/jpeg", 0.8);
}

/* Draws the picture on white, as the critic does. */
function paint(canvas, image, width, height) {
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
}

async function load(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
