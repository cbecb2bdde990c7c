// The storyboard on Story Script: its shots as cards. The text of the node's `script` is the only truth; a card is a
// view of its part of it, and what is changed on a card is changed in the text.

import { app } from "../../scripts/app.js";
import { element, stylesheet } from "./dom.js";
import { checkScript } from "./script_check.js";
import { shotStates, statesOf } from "./shot_states.js";
import { addScene, addShot, hasScenes, moveShot, readScenes, removeShot, setEntry } from "./story_text.js";
import { Card, faultItems } from "./storyboard_card.js";

const VIEW = "storymem_view"; // the node's property: "text", or else cards
const CHECK_AFTER = 300; // ms without typing
const BAR = 36; // px: the height of the bar, all there is of the board beside the text

stylesheet(import.meta.url, "storyboard.css");

class Storyboard {
  constructor(node) {
    this.node = node;
    this.script = node.widgets.find((widget) => widget.name === "script");
    this.cards = [];
    this.faults = []; // of the last check, as is what follows
    this.shots = 0;
    this.file = null; // the text of the file that the script names
    this.notice = element("div", { className: "storymem-board-notice", role: "status" });
    this.scenes = element("div", { className: "storymem-board-scenes" });
    this.newScene = this.button("Add scene", "pi pi-plus", () => this.edit(addScene));
    this.summary = element("span", { className: "storymem-board-summary", role: "status" });
    this.toggle = this.button("Text", "pi pi-align-left", () => this.switchView());
    this.body = element("div", { className: "storymem-board-body" }, this.notice, this.scenes, this.newScene);
    this.element = element(
      "div",
      { className: "storymem-board" },
      this.body,
      element("div", { className: "storymem-board-bar" }, this.summary, this.toggle),
    );
    this.widget = node.addDOMWidget("storyboard", "storymem_storyboard", this.element, {
      serialize: false,
      getMinHeight: () => (this.isText ? BAR : 200),
      getMaxHeight: () => (this.isText ? BAR : undefined),
      margin: 6,
    });
    this.widget.serialize = false;
    this.widget.onPointerDown = () => true; // a press beside the element is nothing to the canvas
  }

  button(text, icon, click) {
    return element(
      "button",
      { type: "button", className: "storymem-board-button", on: { click } },
      element("i", { className: icon, ariaHidden: "true" }),
      element("span", {}, text),
    );
  }

  get isLinked() {
    return this.node.inputs.some((input) => input.name === "script" && input.link != null);
  }

  get isText() {
    return this.isLinked || this.node.properties[VIEW] === "text";
  }

  switchView() {
    app.canvas.emitBeforeChange();
    this.node.properties[VIEW] = this.isText ? "cards" : "text";
    this.update();
    app.canvas.emitAfterChange();
  }

  // --- from the text to the cards

  /** Show what the node holds now. */
  update() {
    const hide = !this.isText;
    if (this.script.hidden !== hide) {
      this.script.hidden = this.script.options.hidden = hide;
      this.node.widgets.push(this.node.widgets.pop()); // has Vue nodes look again at what is hidden
      this.node.setDirtyCanvas(true, true);
    }
    this.body.hidden = this.isText;
    this.toggle.hidden = this.isLinked;
    this.toggle.lastChild.textContent = this.isText ? "Cards" : "Text";
    if (this.checked !== this.script.value) {
      this.checked = this.script.value;
      this.file = null;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.check(), CHECK_AFTER);
    }
    this.show();
  }

  async check() {
    const script = this.script.value;
    const { shots, faults, file } = await checkScript(script);
    if (script !== this.script.value) return; // typed on since
    Object.assign(this, { shots, faults, file });
    this.show();
  }

  show() {
    this.showScenes();
    this.showFaults();
    this.showStates();
    this.showSummary();
  }

  showScenes() {
    const text = this.file ?? this.script.value;
    const readOnly = this.file !== null;
    let scenes = [];
    try {
      scenes = readScenes(text);
      this.newScene.hidden = readOnly || !hasScenes(text);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      this.newScene.hidden = true; // no cards of a text that is no JSON: the validator says where it breaks
    }
    const raw = ({ start, end }) => text.slice(start, end);
    const names = scenes.map(({ number }, i) => `Scene ${number ?? i + 1}`);
    while (this.scenes.children.length > scenes.length) this.scenes.lastChild.remove();
    for (let i = this.scenes.children.length; i < scenes.length; i++) this.scenes.append(this.newSceneElement(i));
    const cards = [];
    scenes.forEach(({ shots }, scene) => {
      const section = this.scenes.children[scene];
      section.ariaLabel = names[scene];
      section.querySelector("h3").textContent = names[scene];
      section.querySelector(".storymem-board-button").hidden = readOnly;
      const list = section.querySelector("ol");
      const old = this.cards.filter((card) => card.element.parentElement === list);
      while (old.length > shots.length) old.pop().element.remove();
      while (old.length < shots.length) {
        old.push(new Card(this));
        list.append(old.at(-1).element);
      }
      shots.forEach((entries, shot) => {
        cards.push(old[shot]);
        old[shot].show({ scene, shot }, cards.length, entries, raw, names, readOnly);
      });
    });
    this.cards = cards;
  }

  newSceneElement(scene) {
    return element(
      "section",
      { className: "storymem-board-scene" },
      element("h3", {}),
      element("ul", { className: "storymem-board-faults" }),
      element("ol", {}),
      this.button("Add shot", "pi pi-plus", () => this.addTo(scene)),
    );
  }

  showFaults() {
    const at = (scene, shot) => this.faults.filter((fault) => fault.scene === scene && fault.shot === shot);
    const shown = new Set();
    for (const card of this.cards) {
      const faults = at(card.place.scene + 1, card.place.shot + 1);
      faults.forEach((fault) => shown.add(fault));
      card.showFaults(faults);
    }
    [...this.scenes.children].forEach((section, scene) => {
      const faults = this.faults.filter((fault) => fault.scene === scene + 1 && !shown.has(fault));
      faults.forEach((fault) => shown.add(fault));
      section.querySelector(".storymem-board-faults").replaceChildren(...faultItems(faults));
    });
    this.notice.replaceChildren(...faultItems(this.faults.filter((fault) => !shown.has(fault))));
  }

  showSummary() {
    const lines = this.faults.map(({ scene, shot, field, text }) => {
      const place = [scene && `scene ${scene}`, shot && `shot ${shot}`, field].filter(Boolean);
      return place.length ? `${place.join(", ")}: ${text}` : text;
    });
    const faults = counted(lines.length, "fault");
    let text = lines.length ? faults : counted(this.shots, "shot");
    if (lines.length && this.isText) text = `${faults}: ${lines[0]}`;
    if (this.file !== null) text += ", in a file: change it there";
    this.summary.textContent = this.isLinked ? "The script comes from another node" : text;
    this.summary.title = lines.join("\n");
    this.element.classList.toggle("storymem-board-faulty", lines.length > 0 && !this.isLinked);
  }

  showStates() {
    const states = statesOf(this.node, this.cards.map((card) => card.prompt.value.trim()));
    this.cards.forEach((card, i) => card.showState(states[i]));
  }

  // --- from the cards to the text

  /** Change the text, as one step of the graph's history. */
  edit(change) {
    app.canvas.emitBeforeChange();
    this.script.value = change(this.script.value);
    app.canvas.emitAfterChange();
  }

  set(place, entries) {
    const set = (text, [name, value]) => setEntry(text, place, name, value);
    this.script.value = Object.entries(entries).reduce(set, this.script.value);
  }

  /** The end of typing: a step of the graph's history. */
  done() {
    app.canvas.emitBeforeChange();
    app.canvas.emitAfterChange();
  }

  addTo(scene) {
    this.edit((text) => addShot(text, scene));
    this.cards.findLast((card) => card.place.scene === scene).prompt.focus();
  }

  remove(place) {
    this.edit((text) => removeShot(text, place));
  }

  /** Move a shot one place up or down; out of its scene into the next. */
  step({ scene, shot }, by) {
    const counts = readScenes(this.script.value).map(({ shots }) => shots.length);
    const to = { scene, shot: shot + by };
    if (to.shot < 0) Object.assign(to, { scene: scene - 1, shot: counts[scene - 1] });
    else if (to.shot >= counts[scene]) Object.assign(to, { scene: scene + 1, shot: 0 });
    if (to.scene in counts) this.move({ scene, shot }, to, "grip");
  }

  toScene(place, scene) {
    this.move(place, { scene, shot: readScenes(this.script.value)[scene].shots.length }, "scene");
  }

  move(from, to, focused) {
    const number = this.cards.findIndex(({ place }) => place.scene === from.scene && place.shot === from.shot);
    const { prompt } = this.cards[number];
    document.activeElement?.blur();
    this.edit((text) => moveShot(text, from, to));
    const moved = this.cards.find((card) => card.place.scene === to.scene && card.place.shot === to.shot);
    (moved ?? this.cards.at(-1))[focused].focus();
  }

  /** A card is dragged: from its place, or no longer. */
  drag(place = null) {
    this.dragged = place;
  }

  drop(place, after) {
    const from = this.dragged;
    const shot = place.shot + (after ? 1 : 0);
    const isLater = place.scene === from.scene && shot > from.shot;
    this.move(from, { scene: place.scene, shot: shot - (isLater ? 1 : 0) }, "grip");
  }
}

function counted(number, name) {
  return `${number} ${name}${number === 1 ? "" : "s"}`;
}

/** Call `then` after a callback of the node or its widget. */
function after(object, name, then) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    then();
    return result;
  };
}

app.registerExtension({
  name: "StoryMem.Storyboard",
  nodeCreated(node) {
    if (node.comfyClass !== "StoryMemScript") return;
    const board = new Storyboard(node);
    const update = () => board.update();
    const updateStates = () => board.showStates();
    after(board.script, "callback", update);
    after(node, "onConfigure", update);
    after(node, "onConnectionsChange", update);
    shotStates.addEventListener("changed", updateStates);
    after(node, "onRemoved", () => shotStates.removeEventListener("changed", updateStates));
    update();
  },
});
