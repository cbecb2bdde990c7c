// What a person changed in a memory by hand, as storymem_core/edits.py reads it from the node's `edits` text.

const FLAGS = ["pinned", "excluded", "label"];

/** {keyframes: Map id -> changes, order: [id, ...]} of an edits text; null where it cannot be read. */
export function readEdits(text) {
  if (!text.trim()) return { keyframes: new Map(), order: [] };
  try {
    const { keyframes = {}, order = [] } = JSON.parse(text);
    return { keyframes: new Map(Object.entries(keyframes)), order: [...order] };
  } catch {
    return null;
  }
}

/** The text of edits; empty for none. */
export function writeEdits({ keyframes, order }) {
  if (!keyframes.size && !order.length) return "";
  return JSON.stringify({
    ...(keyframes.size && { keyframes: Object.fromEntries(keyframes) }),
    ...(order.length && { order }),
  });
}

/** Keyframes in the order they were stored, with the edits applied. */
export function applyEdits({ keyframes, order }, stored) {
  const changed = stored.map((keyframe) => ({ ...keyframe, ...keyframes.get(keyframe.id) }));
  const rank = new Map(order.map((id, i) => [id, i]));
  const listed = changed.filter(({ id }) => rank.has(id)).sort((a, b) => rank.get(a.id) - rank.get(b.id));
  return changed.map((keyframe) => (rank.has(keyframe.id) ? listed.shift() : keyframe));
}

/** Edits that also give a keyframe another flag or label; what it was stored with needs no edit. */
export function change(edits, { id, unedited }, name, value) {
  const { [name]: _, ...changes } = edits.keyframes.get(id) ?? {};
  if (value !== unedited[name]) changes[name] = value;
  const keyframes = new Map(edits.keyframes);
  if (FLAGS.some((flag) => flag in changes)) keyframes.set(id, changes);
  else keyframes.delete(id);
  return { ...edits, keyframes };
}

/** Edits that also move one of the keyframes shown from one place to another. */
export function move(edits, shown, from, to) {
  const moved = shown.toSpliced(from, 1).toSpliced(to, 0, shown[from]);
  const inOrder = moved.every(({ unedited }, i) => unedited.place === i);
  return { ...edits, order: inOrder ? [] : [...new Set(moved.map(({ id }) => id))] };
}

/** How many keyframes were edited, the order counting as one more. */
export function count({ keyframes, order }) {
  return keyframes.size + (order.length ? 1 : 0);
}
