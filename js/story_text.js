// The shots of a story script, and edits of its text that keep comments and formatting.

import { field, lineStart, parse, piece, pieces, refill, replace } from "./jsonc.js";

export const LISTS = ["video_prompts", "cut", "transition", "length", "seed", "characters"]; // one entry per shot

/**
 * The scenes of a script: {number, shots} with a shot's entries by the name of their list, each a value of jsonc.js
 * or undefined. What is no scene has no shots: its fault is the validator's to tell. Throws SyntaxError.
 */
export function readScenes(text) {
  return scenesOf(text).map((scene) => {
    const lists = scene.kind === "object" ? LISTS.map((name) => [name, entries(scene, name)]) : [];
    const count = Math.max(0, ...lists.map(([, list]) => list.length));
    const shots = Array.from({ length: count }, (_, i) =>
      Object.fromEntries(lists.map(([name, list]) => [name, list[i]?.value])),
    );
    const number = scene.kind === "object" ? field(scene, "scene_num") : undefined;
    return { number: number && text.slice(number.start, number.end), shots };
  });
}

/** One entry of a shot set to the text of a value. */
export function setEntry(text, { scene, shot }, name, value) {
  const object = scenesOf(text)[scene];
  const entry = entries(object, name)[shot];
  if (entry) return replace(text, [[entry.value.start, entry.value.end, value]]);
  if (value === "null") return text;
  return fillList(text, scene, name, (list) => {
    pad(list, shot);
    list[shot] = piece(value);
  });
}

/** A new shot at the end of a scene: a cut with an empty prompt. */
export function addShot(text, scene) {
  const count = readScenes(text)[scene].shots.length;
  return insertShot(text, { scene, shot: count }, { video_prompts: piece('""'), cut: piece("true") });
}

/** A new scene with one shot, at the end of the story; its lines are indented as those of the scene before. */
export function addScene(text) {
  const numbers = readScenes(text).map(({ number }) => Number(number)).filter(Number.isInteger);
  const number = Math.max(0, ...numbers) + 1;
  return fill(text, sceneList(text), (scenes) => {
    const line = lineStart(scenes.at(-1)?.before ?? "");
    const [inner, deeper] = line ? [`${line}  `, `${line}    `] : ["", ""];
    const members = [`"scene_num": ${number}`, `"video_prompts": [${deeper}""${inner}]`, '"cut": [true]'];
    scenes.push(piece(`{${inner}${members.join(`,${inner || " "}`)}${line ?? ""}}`));
  });
}

/** Whether the script has a list of scenes to add to. */
export function hasScenes(text) {
  return sceneList(text)?.kind === "array";
}

/** Without a shot; a scene goes with its only shot. */
export function removeShot(text, place) {
  return takeShot(text, place).text;
}

/** A shot moved to another place, counted as it will be: {scene, shot}. A scene goes with its only shot. */
export function moveShot(text, from, to) {
  if (from.scene === to.scene && from.shot === to.shot) return text;
  const { text: without, entries: taken, removed } = takeShot(text, from);
  const scene = removed && to.scene > from.scene ? to.scene - 1 : to.scene;
  return insertShot(without, { ...to, scene }, taken);
}

function scenesOf(text) {
  const list = sceneList(text);
  return list?.kind === "array" ? list.items.map((item) => item.value) : [];
}

function sceneList(text) {
  const root = parse(text);
  return root.kind === "object" ? field(root, "scenes") : undefined;
}

function entries(scene, name) {
  const list = field(scene, name);
  return list?.kind === "array" ? list.items : [];
}

/** A shot's pieces by the name of their list, and the text without them. */
function takeShot(text, { scene, shot }) {
  const taken = {};
  let rest = text;
  for (const name of LISTS) {
    if (shot >= entries(scenesOf(rest)[scene], name).length) continue;
    rest = fillList(rest, scene, name, (list) => ([taken[name]] = list.splice(shot, 1)));
  }
  const removed = readScenes(rest)[scene].shots.length === 0;
  if (removed) rest = fill(rest, sceneList(rest), (scenes) => scenes.splice(scene, 1));
  return { text: rest, entries: taken, removed };
}

function insertShot(text, { scene, shot }, taken) {
  let made = text;
  for (const name of LISTS) {
    const list = field(scenesOf(made)[scene], name);
    const entry = taken[name] ?? piece("null");
    const isNothing = Object.values(entry).join("").trim() === "null";
    if (isNothing && list?.kind !== "array") continue; // and there is no list that must have an entry for it
    made = fillList(made, scene, name, (all) => {
      pad(all, shot);
      all.splice(shot, 0, entry);
    });
  }
  return made;
}

/** A change to the pieces of a scene's list, which is made where it is missing, with one entry for every shot. */
function fillList(text, scene, name, change) {
  const object = scenesOf(text)[scene];
  const list = field(object, name);
  if (list?.kind === "array") return fill(text, list, change);
  const made = [];
  change(made);
  pad(made, readScenes(text)[scene].shots.length);
  const value = refill("[]", parse("[]"), made)[2];
  if (list) return replace(text, [[list.start, list.end, value]]);
  return fill(text, object, (members) => members.push(piece(`"${name}": ${value}`)));
}

function fill(text, container, change) {
  const filling = pieces(text, container);
  change(filling);
  return replace(text, [refill(text, container, filling)]);
}

function pad(list, count) {
  while (list.length < count) list.push(piece("null"));
}
