// The memory on its nodes: keyframes as thumbnails; on Memory Bank to be pinned, excluded, labelled and reordered.

import { app } from "../../scripts/app.js";
import { applyEdits, change, count, move, readEdits, writeEdits } from "./bank_edits.js";
import { element, stylesheet } from "./dom.js";
import { MemoryCard } from "./memory_card.js";

const EDITABLE = "StoryMemMemoryBank";
const NODES = [EDITABLE, "StoryMemKeyframeExtractor", "StoryMemLoadBank"];
const NODE_WIDTH = 500; // three thumbnails
const HEIGHT = 260; // one row of them, whole
const LABELS_HEIGHT = 60;

const strips = new WeakMap();

app.registerExtension({
  name: "StoryMem.MemoryStrip",
  setup() {
    stylesheet(import.meta.url, "memory_strip.css");
  },
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) strips.set(node, new MemoryStrip(node));
  },
  loadedGraphNode(node) {
    strips.get(node)?.show(app.nodeOutputs[locator(node)]);
  },
  onNodeOutputsUpdated(outputs) {
    if (!app.isGraphReady) return;
    const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()];
    for (const node of graphs.flatMap((graph) => graph.nodes)) strips.get(node)?.show(outputs[locator(node)]);
  },
});

/** The front end's key for a node's outputs. */
function locator(node) {
  return node.graph === app.rootGraph ? String(node.id) : `${node.graph?.id}:${node.id}`;
}

/** Call a listener after an object's own method of that name. */
function follow(object, method, listener) {
  const before = object[method];
  object[method] = function (...values) {
    before?.apply(this, values);
    listener(...values);
  };
}

function plural(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

class MemoryStrip {
  constructor(node) {
    this.node = node;
    this.edits = node.widgets?.find(({ name }) => name === "edits");
    this.editable = node.comfyClass === EDITABLE;
    this.cards = new Map();
    this.shown = [];

    this.summary = element("span", { className: "storymem-strip-summary" });
    this.reset = element("button", {
      type: "button",
      className: "storymem-strip-reset",
      title: "Undo every change made by hand on this node",
      textContent: "Reset edits",
      on: { click: () => this.write("") },
    });
    this.note = element("div", { className: "storymem-strip-note", role: "status" });
    this.list = element("ul", { className: "storymem-strip-keyframes", ariaLabel: "Keyframes of the memory" });
    this.element = element(
      "div",
      { className: "storymem-strip", on: { wheel: (event) => this.onWheel(event) } },
      element("div", { className: "storymem-strip-head" }, this.summary, this.reset),
      this.editable ? this.note : null,
      this.list,
    );
    const widget = node.addDOMWidget("memory", "storymem_strip", this.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
    });
    widget.serialize = false;
    widget.onPointerDown = () => true; // a press beside the element is nothing to the canvas
    const labels = node.widgets.find(({ name }) => name === "reference_labels");
    if (labels) labels.options.getMaxHeight = () => LABELS_HEIGHT; // a larger node has more room for keyframes
    node.setSize([Math.max(node.size[0], NODE_WIDTH), node.computeSize()[1]]);
    follow(node, "onConfigure", () => this.render());
    follow(node, "onExecuted", (output) => this.show(output));
    if (this.editable) follow(this.edits, "callback", () => this.render());
    this.render();
  }

  /** Show what a run of the node gave; undefined before any. */
  show(output) {
    this.output = output?.storymem_keyframes ? output : undefined;
    this.render();
  }

  /** Change the edits as one step that can be undone. */
  write(text) {
    app.canvas.emitBeforeChange();
    this.edits.value = text;
    this.edits.callback(text);
    app.canvas.emitAfterChange();
  }

  render() {
    const edits = this.editable ? readEdits(this.edits.value) : readEdits("");
    const stale = this.editable && this.output && this.output.storymem_edits[0] !== this.edits.value;
    const keyframes = this.output?.storymem_keyframes ?? [];
    this.shown = this.editable && edits ? applyEdits(edits, asStored(keyframes)) : keyframes;
    this.element.classList.toggle("storymem-strip-stale", Boolean(stale));
    this.summary.textContent = this.summarize();
    this.reset.hidden = !this.editable || !this.edits.value;
    this.note.textContent = this.remark(edits, stale);
    this.arrange();
  }

  summarize() {
    if (!this.output) return "Run to see the memory.";
    const { storymem_keyframes: keyframes, storymem_stored: [stored] } = this.output;
    const recalled = keyframes.filter((keyframe) => keyframe.recalled).length;
    if (this.node.comfyClass === "StoryMemKeyframeExtractor")
      return `${plural(keyframes.length, "keyframe")} added, ${stored} in memory`;
    return stored ? `${plural(stored, "keyframe")}, the next shot recalls ${recalled}` : "The memory is empty.";
  }

  /** What a person has to know about the edits. */
  remark(edits, stale) {
    if (!edits) return "The edits cannot be read: reset them.";
    const remarks = [];
    if (stale) remarks.push("Changed: run to update what is recalled.");
    const ids = new Set(this.shown.map(({ id }) => id));
    const waiting = [...edits.keyframes.keys()].filter((id) => !ids.has(id)).length;
    const wait = `${plural(waiting, "edit")} ${waiting === 1 ? "waits" : "wait"}`;
    if (!this.output && count(edits)) remarks.push(`${plural(count(edits), "edit")} kept.`);
    else if (waiting) remarks.push(`${wait} for keyframes that are not in this memory.`);
    else if (!stale && this.shown.length) remarks.push("Pin, exclude or label keyframes, drag them to reorder.");
    return remarks.join(" ");
  }

  /** Make, update and order the cards; those that stay are touched only where something changed. */
  arrange() {
    const seen = new Map();
    const cards = new Map();
    this.shown.forEach((keyframe, place) => {
      const copy = seen.get(keyframe.id) ?? 0; // a picture may be stored twice
      seen.set(keyframe.id, copy + 1);
      const key = `${keyframe.id} ${copy}`;
      const card = this.cards.get(key) ?? new MemoryCard(this);
      cards.set(key, card);
      card.update(keyframe, place);
      const there = this.list.children[place];
      if (there !== card.element) this.list.insertBefore(card.element, there ?? null);
    });
    while (this.list.children.length > this.shown.length) this.list.lastChild.remove();
    this.cards = cards;
    if (!this.list.querySelector(":scope > [tabindex='0']")) [...cards.values()][0]?.reach(true);
  }

  /** The wheel scrolls the keyframes where they do not fit; else, and with Ctrl, it zooms the canvas. */
  onWheel(event) {
    event.stopPropagation();
    if (!event.ctrlKey && this.list.scrollHeight > this.list.clientHeight) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  }

  /** Let Tab reach one card and its buttons; arrow keys go to the others. */
  enter(card) {
    for (const other of this.cards.values()) if (other !== card) other.reach(false);
    card.reach(true);
  }

  focus(place) {
    this.list.children[Math.max(0, Math.min(place, this.shown.length - 1))]?.focus();
  }

  set(keyframe, name, value) {
    const edits = readEdits(this.edits.value);
    if (edits) this.write(writeEdits(change(edits, keyframe, name, value)));
  }

  move(from, to) {
    const edits = readEdits(this.edits.value);
    if (!edits || to < 0 || to >= this.shown.length || to === from) return;
    this.write(writeEdits(move(edits, this.shown, from, to)));
    this.focus(to);
  }
}

/** Keyframes as they were before the edits of the run that showed them. */
function asStored(keyframes) {
  return keyframes
    .map(({ unedited: { place, ...flags }, ...keyframe }) => ({ ...keyframe, ...flags, unedited: { place, ...flags } }))
    .sort((a, b) => a.unedited.place - b.unedited.place);
}
