// What the last run made of each shot of a Story Script, from the server's events.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const INNER = /\.shot(\d+)_(\w+)$/; // how Story Director names its inner nodes
const runs = new Map(); // place of a Story Script in the prompt -> the last run of its story

/** Tells "changed" when the state of any shot does. */
export const shotStates = new EventTarget();

/**
 * For each prompt of the script in a node the state of its shot in the last run: {state, percent, thumbnail, message};
 * undefined where that run had no such shot. A shot that was moved since keeps its state, a rewritten one does not.
 */
export function statesOf(node, prompts) {
  const shots = [...runs].find(([place]) => nodeAt(place) === node)?.[1].shots ?? [];
  const left = new Set(shots);
  const take = (shot, prompt) => (shot?.prompt === prompt && left.delete(shot) ? shot : undefined);
  const kept = prompts.map((prompt, i) => take(shots[i], prompt));
  return kept.map((shot, i) => shot ?? take([...left].find(({ prompt }) => prompt === prompts[i]), prompts[i]));
}

/** The node at a place in the prompt: its id, after those of the subgraphs it is in. */
function nodeAt(place) {
  const ids = place.split(":");
  return ids.reduce((node, id) => (node?.subgraph ?? app.rootGraph).getNodeById(id), null);
}

/** Has `change` change the run of a story that an event belongs to. */
function on(event, change) {
  api.addEventListener(event, ({ detail }) => {
    for (const run of runs.values()) {
      if (run.id !== detail.prompt_id) continue;
      change(run, detail);
      shotStates.dispatchEvent(new Event("changed"));
    }
  });
}

/** The end of a run: a shot in work gets a state, what was not begun has none. */
function end(run, state) {
  for (const shot of run.shots) {
    if (shot.state === "waiting") shot.state = "";
    else if (shot.state === "sampling" || shot.state === "writing") Object.assign(shot, state);
  }
}

api.addEventListener("executed", ({ detail: { prompt_id: id, node: director, output } }) => {
  for (const { script, prompts } of output?.storymem_story ?? [])
    runs.set(script, { id, director, shots: prompts.map((prompt) => ({ prompt, state: "waiting" })) });
});

on("executed", ({ director, shots }, { display_node: node, output }) => {
  for (const { number, reused, thumbnail } of (node === director && output?.storymem_shot) || [])
    Object.assign(shots[number - 1], { state: reused ? "reused" : "done", thumbnail });
});

on("progress_state", ({ director, shots }, { nodes }) => {
  for (const { node_id: id, display_node_id: node, state, value, max } of Object.values(nodes)) {
    const [, number, part] = (node === director && state === "running" && INNER.exec(id)) || [];
    if (part?.startsWith("sampler"))
      Object.assign(shots[number - 1], { state: "sampling", percent: Math.round((100 * value) / max) });
    else if (part === "files" && shots[number - 1].state === "sampling") shots[number - 1].state = "writing";
  }
});

on("execution_error", (run, { node_id: node, exception_message: message }) =>
  end(run, node === run.director ? { state: "failed", message } : { state: "stopped" }),
);
on("execution_interrupted", (run) => end(run, { state: "stopped" }));
on("execution_success", (run) => end(run, { state: "" }));
