// One shot of the storyboard: its fields, its faults and what the last run made of it.

import { api } from "../../scripts/api.js";
import { element } from "./dom.js";

const CUT = "cut";
const CONTINUED = "continued"; // in the way that Story Director has set
const BEGINNINGS = {
  [CUT]: "Cut",
  [CONTINUED]: "Continues",
  first_frame: "Continues: first frame",
  motion_frames: "Continues: motion frames",
};

/**
 * @param {Object} board what a card asks for, each with the card's place {scene, shot}: `set(place, entries)` with
 *   the new text of each list's entry, `remove(place)`, `step(place, by)`, `toScene(place, scene)`, `drag(place)` and,
 *   at its end, `drag()`, `drop(place, after)`, `done()` at the end of typing, `update()` to show the script again
 */
export class Card {
  constructor(board) {
    this.board = board;
    this.prompt = this.field("textarea", "Prompt", () => ({ video_prompts: JSON.stringify(this.prompt.value) }));
    this.prompt.rows = 3;
    this.beginning = this.choice("How the shot begins", () => beginning(this.beginning.value));
    this.length = this.field("input", "Length in frames", () => ({ length: lengthText(this.length.value) }));
    this.length.placeholder = "length";
    this.length.inputMode = "numeric";
    this.characters = this.field("input", "Characters, with commas between", () => ({
      characters: charactersText(this.characters.value),
    }));
    this.characters.placeholder = "characters";
    this.scene = element("select", {
      ariaLabel: "Scene",
      title: "Scene: choose another to move the shot to its end",
      on: { change: () => board.toScene(this.place, Number(this.scene.value)) },
    });
    this.grip = element(
      "button",
      {
        className: "storymem-board-grip",
        type: "button",
        draggable: true,
        title: "Drag to move the shot, or use the arrow keys",
        on: {
          keydown: (event) => this.onGripKey(event),
          dragstart: (event) => this.onDragStart(event),
          dragend: () => this.onDragEnd(),
        },
      },
      element("i", { className: "pi pi-bars", ariaHidden: "true" }),
    );
    this.number = element("span", { className: "storymem-board-number" });
    this.state = element("span", { className: "storymem-board-state" });
    this.thumbnail = element("img", { className: "storymem-board-thumbnail", draggable: false });
    this.faults = element("ul", { className: "storymem-board-faults" });
    this.remove = element(
      "button",
      {
        className: "storymem-board-remove",
        type: "button",
        title: "Delete the shot",
        on: { click: () => board.remove(this.place) },
      },
      element("i", { className: "pi pi-trash", ariaHidden: "true" }),
    );
    this.element = element(
      "li",
      {
        className: "storymem-board-card",
        on: {
          dragover: (event) => this.onDragOver(event),
          dragleave: () => this.mark(),
          drop: (event) => this.onDrop(event),
        },
      },
      element("div", { className: "storymem-board-row" }, this.grip, this.number, this.state, this.scene, this.remove),
      element("div", { className: "storymem-board-row storymem-board-picture" }, this.prompt, this.thumbnail),
      element("div", { className: "storymem-board-row" }, this.beginning, this.length, this.characters),
      this.faults,
    );
  }

  /** A text field; `entries` are the texts that its value gives. */
  field(tag, label, entries) {
    let own = false; // whether what the field takes back was asked of it
    const onInput = ({ target: field, inputType }) => {
      if (own || !inputType?.startsWith("history")) return this.board.set(this.place, entries());
      // Ctrl+Z on the canvas is the graph's, but the browser takes back the last typing in a field as well
      field.blur();
      this.board.update();
    };
    const on = {
      keydown: () => (own = true),
      contextmenu: () => (own = true),
      blur: () => (own = false),
      input: onInput,
      change: () => this.board.done(),
    };
    return element(tag, { ariaLabel: label, title: label, spellcheck: false, on });
  }

  choice(label, entries) {
    const choice = element("select", {
      ariaLabel: label,
      title: label,
      on: {
        change: () => {
          this.board.set(this.place, entries());
          this.board.done();
        },
      },
    });
    for (const [value, text] of Object.entries(BEGINNINGS)) choice.add(new Option(text, value));
    return choice;
  }

  /**
   * Show a shot.
   * @param {{scene: number, shot: number}} place
   * @param {number} number of the shot in the story, from 1
   * @param {Object} entries its values by the name of their list, and `raw(value)`, a value's text
   * @param {string[]} scenes the names of all scenes
   */
  show(place, number, entries, raw, scenes, readOnly) {
    this.place = place;
    this.number.textContent = number;
    this.grip.ariaLabel = `Move shot ${number}`;
    this.remove.ariaLabel = `Delete shot ${number}`;
    setValue(this.prompt, plain(entries.video_prompts, raw));
    setValue(this.length, plain(entries.length, raw));
    setValue(this.characters, characters(entries.characters, raw));
    this.showBeginning(entries, raw);
    if (scenes.join("\n") !== [...this.scene.options].map((option) => option.text).join("\n"))
      this.scene.replaceChildren(...scenes.map((name, i) => new Option(name, i)));
    this.scene.value = place.scene;
    for (const field of [this.prompt, this.length, this.characters]) field.readOnly = readOnly;
    for (const field of [this.beginning, this.scene, this.grip, this.remove]) field.disabled = readOnly;
    this.grip.draggable = !readOnly;
  }

  showBeginning({ cut, transition }, raw) {
    const isCut = truth(cut);
    const kind = transition && transition.value !== null ? plain(transition, raw) : isCut ? CUT : CONTINUED;
    const matches = isCut !== undefined && (kind === CUT) === isCut && kind in BEGINNINGS;
    const written = `cut ${cut ? raw(cut) : "missing"}, transition ${transition ? raw(transition) : "null"}`;
    const value = matches ? kind : written;
    for (const option of [...this.beginning.options].slice(Object.keys(BEGINNINGS).length)) option.remove();
    if (!matches) this.beginning.add(new Option(value, value)); // what the script says is shown, though it is a fault
    this.beginning.value = value;
  }

  showFaults(faults) {
    this.element.classList.toggle("storymem-board-faulty", faults.length > 0);
    this.faults.replaceChildren(...faultItems(faults));
  }

  showState({ state = "", percent, message, thumbnail } = {}) {
    this.state.dataset.state = state;
    this.state.textContent = state === "sampling" ? `sampling ${percent} %` : state;
    this.state.title = state === "failed" ? message : "";
    this.state.style.setProperty("--storymem-board-percent", `${state === "sampling" ? percent : 0}%`);
    this.thumbnail.hidden = !thumbnail;
    if (!thumbnail) return this.thumbnail.removeAttribute("src");
    const source = api.apiURL(`/view?${new URLSearchParams(thumbnail)}`);
    if (this.thumbnail.getAttribute("src") !== source) this.thumbnail.src = source;
    this.thumbnail.alt = `Picture of shot ${this.number.textContent}`;
  }

  onGripKey(event) {
    const by = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    this.board.step(this.place, by);
  }

  onDragStart(event) {
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", this.prompt.value);
    event.dataTransfer.setDragImage(this.element, 10, 10);
    this.element.classList.add("storymem-board-dragged");
    this.board.drag(this.place);
  }

  onDragEnd() {
    this.element.classList.remove("storymem-board-dragged");
    this.board.drag();
  }

  onDragOver(event) {
    if (!this.board.dragged) return;
    event.preventDefault();
    event.stopPropagation();
    this.mark(this.isAfter(event) ? "after" : "before");
  }

  onDrop(event) {
    if (!this.board.dragged) return;
    event.preventDefault();
    event.stopPropagation();
    this.mark();
    this.board.drop(this.place, this.isAfter(event));
  }

  isAfter(event) {
    const { top, height } = this.element.getBoundingClientRect();
    return event.clientY > top + height / 2;
  }

  mark(where = "") {
    this.element.dataset.drop = where;
  }
}

/** Faults as items of a list. */
export function faultItems(faults) {
  return faults.map(({ field, text }) => element("li", {}, field ? `${field}: ${text}` : text));
}

/** Sets a field, unless a person is typing in it: then the text comes from there. */
function setValue(field, value) {
  if (field !== document.activeElement && field.value !== value) field.value = value;
}

/** A value as a field shows it: nothing for null, a text without its quotes. */
function plain(value, raw) {
  if (!value || value.value === null) return "";
  return value.kind === "string" ? value.value : raw(value);
}

function characters(value, raw) {
  return value?.kind === "array" ? value.items.map((item) => plain(item.value, raw)).join(", ") : plain(value, raw);
}

function truth(cut) {
  if (typeof cut?.value === "boolean") return cut.value;
  return { true: true, false: false }[typeof cut?.value === "string" ? cut.value.trim().toLowerCase() : ""];
}

function beginning(value) {
  if (!(value in BEGINNINGS)) return {};
  const kind = value === CUT || value === CONTINUED ? "null" : JSON.stringify(value);
  return { cut: String(value === CUT), transition: kind };
}

function lengthText(value) {
  const text = value.trim();
  if (!text) return "null";
  return /^(0|[1-9][0-9]*)$/.test(text) ? text : JSON.stringify(text);
}

function charactersText(value) {
  const names = value.split(",").map((name) => name.trim()).filter(Boolean);
  return names.length ? JSON.stringify(names) : "null";
}
