// One keyframe of a memory strip: its picture, what it is, and on Memory Bank the buttons, keys and drags that edit it.

import { api } from "../../scripts/api.js";
import { element } from "./dom.js";

const DRAG_DISTANCE = 5; // pixels a pointer moves before a press is a drag
const SCROLL_EDGE = 24; // pixels from the rim where a drag scrolls
const MARKS = {
  recalled: "The next shot recalls it.",
  sink: "One of the first keyframes: always recalled, unless pinned ones take all places.",
  pinned: "Recalled by every shot.",
  excluded: "Stored, but never recalled.",
};
const FLAG_BUTTONS = {
  pinned: { icon: "pi-thumbtack", off: "Pin: recall it for every shot (P)", on: "Unpin (P)" },
  excluded: { icon: "pi-ban", off: "Exclude: never recall it (X)", on: "Include again (X)" },
};
const LABEL_BUTTON = "Label (L)";
const KEYS = { p: "pinned", x: "excluded" };

/** Where a keyframe was taken. */
function origin({ shot, frame }) {
  return shot ? `shot ${shot} · frame ${frame}` : `reference ${frame + 1}`;
}

function shortNumber(number) {
  return Math.abs(number) < 100 ? number.toPrecision(3) : number.toFixed();
}

function chip(mark) {
  const className = `storymem-strip-mark storymem-strip-${mark}`;
  return element("span", { className, title: MARKS[mark] }, mark);
}

/** A list item of a strip. */
export class MemoryCard {
  constructor(strip) {
    this.strip = strip;
    this.image = element("img", {
      className: "storymem-strip-image",
      loading: "lazy",
      decoding: "async",
      draggable: false,
    });
    this.marks = element("div", { className: "storymem-strip-marks" });
    this.origin = element("span", { className: "storymem-strip-origin" });
    this.quality = element("span", { className: "storymem-strip-quality" });
    this.label = element("div", { className: "storymem-strip-label" });
    this.buttons = strip.editable ? this.makeButtons() : {};
    this.element = element(
      "li",
      { className: "storymem-strip-keyframe", tabIndex: -1, on: { keydown: (event) => this.onKey(event) } },
      element("div", { className: "storymem-strip-picture" }, this.image, this.marks),
      element("div", { className: "storymem-strip-line" }, this.origin, this.quality),
      this.label,
      element("div", { className: "storymem-strip-buttons" }, ...Object.values(this.buttons)),
    );
    this.element.addEventListener("focusin", () => strip.enter(this));
    if (strip.editable) this.image.addEventListener("pointerdown", (event) => drag(event, this));
  }

  makeButtons() {
    const button = (icon, press) =>
      element(
        "button",
        { type: "button", className: "storymem-strip-button", tabIndex: -1, on: { click: press } },
        element("i", { className: `pi ${icon}`, ariaHidden: "true" }),
      );
    const label = button("pi-pencil", () => this.editLabel());
    label.title = label.ariaLabel = LABEL_BUTTON;
    return {
      pinned: button(FLAG_BUTTONS.pinned.icon, () => this.toggle("pinned")),
      excluded: button(FLAG_BUTTONS.excluded.icon, () => this.toggle("excluded")),
      label,
    };
  }

  update(keyframe, place) {
    this.place = place;
    const facts = JSON.stringify(keyframe);
    if (facts === this.facts) return;
    this.facts = facts;
    this.keyframe = keyframe;
    const { image, quality, label } = keyframe;
    const source = api.apiURL(`/view?${new URLSearchParams(image)}`);
    if (this.image.getAttribute("src") !== source) this.image.src = source;
    this.image.alt = origin(keyframe);
    this.origin.textContent = origin(keyframe);
    this.quality.textContent = quality === null ? "" : `quality ${shortNumber(quality)}`;
    this.label.textContent = label;
    this.label.title = label;
    const marks = Object.keys(MARKS).filter((mark) => keyframe[mark]);
    this.marks.replaceChildren(...marks.map(chip));
    this.element.classList.toggle("storymem-strip-out", keyframe.excluded);
    this.element.ariaLabel = [origin(keyframe), this.quality.textContent, label, ...marks].filter(Boolean).join(", ");
    for (const [name, { on, off }] of Object.entries(FLAG_BUTTONS)) {
      const button = this.buttons[name];
      if (!button) continue;
      button.ariaPressed = String(keyframe[name]);
      button.title = button.ariaLabel = keyframe[name] ? on : off;
    }
  }

  reach(reachable) {
    for (const part of [this.element, ...Object.values(this.buttons)]) part.tabIndex = reachable ? 0 : -1;
  }

  toggle(name) {
    this.strip.set(this.keyframe, name, !this.keyframe[name]);
  }

  /** Edit the label in place: Enter or leaving keeps it, Escape does not. */
  editLabel() {
    const input = element("input", {
      type: "text",
      className: "storymem-strip-label-input",
      value: this.keyframe.label,
      ariaLabel: "Label",
    });
    let open = true;
    const close = (keep, back) => {
      if (!open) return;
      open = false;
      input.replaceWith(this.label);
      if (keep && input.value !== this.keyframe.label) this.strip.set(this.keyframe, "label", input.value);
      if (back) this.element.focus();
    };
    input.addEventListener("blur", () => close(true, false));
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") close(event.key === "Enter", true);
    });
    this.label.replaceWith(input);
    input.focus();
    input.select();
  }

  onKey(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(this), ArrowDown: columns(this) }[event.key];
    const { editable } = this.strip;
    if (step && !event.altKey) this.strip.focus(this.place + step);
    else if (step && editable) this.strip.move(this.place, this.place + step);
    else if (editable && !event.altKey && event.key.toLowerCase() in KEYS) this.toggle(KEYS[event.key.toLowerCase()]);
    else if (editable && !event.altKey && event.key.toLowerCase() === "l") this.editLabel();
    else return;
    event.preventDefault();
    event.stopPropagation(); // P, X and L are shortcuts of the canvas too
  }
}

/** Cards in a row. */
function columns({ strip }) {
  return getComputedStyle(strip.list).gridTemplateColumns.split(" ").length;
}

/** Drag a card to another place: a bar shows where it would go; Escape stops. */
function drag(down, card) {
  if (down.button !== 0) return;
  const { strip } = card;
  const { list } = strip;
  let target = null; // place before which it would go
  const mark = (place) => {
    list.querySelector(".storymem-strip-before")?.classList.remove("storymem-strip-before");
    list.querySelector(".storymem-strip-after")?.classList.remove("storymem-strip-after");
    target = place;
    if (place === null) return;
    const after = place === list.children.length;
    list.children[after ? place - 1 : place].classList.add(after ? "storymem-strip-after" : "storymem-strip-before");
  };
  const onMove = (event) => {
    const distance = Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY);
    if (target === null && distance < DRAG_DISTANCE) return;
    card.element.classList.add("storymem-strip-dragged");
    const { top, bottom } = list.getBoundingClientRect();
    if (event.clientY < top + SCROLL_EDGE) list.scrollTop -= SCROLL_EDGE;
    if (event.clientY > bottom - SCROLL_EDGE) list.scrollTop += SCROLL_EDGE;
    const over = document.elementFromPoint(event.clientX, event.clientY)?.closest(".storymem-strip-keyframe");
    if (over?.parentNode !== list) return;
    const { left, width } = over.getBoundingClientRect();
    mark([...list.children].indexOf(over) + (event.clientX > left + width / 2 ? 1 : 0));
  };
  const stop = () => {
    const place = target;
    mark(null);
    card.element.classList.remove("storymem-strip-dragged");
    listeners.abort();
    return place;
  };
  const listeners = new AbortController();
  const { signal } = listeners;
  down.preventDefault(); // no text is selected
  card.image.setPointerCapture(down.pointerId);
  card.image.addEventListener("pointermove", onMove, { signal });
  card.image.addEventListener("pointercancel", stop, { signal });
  card.image.addEventListener(
    "pointerup",
    () => {
      const place = stop();
      if (place === null) card.element.focus();
      else strip.move(card.place, place > card.place ? place - 1 : place);
    },
    { signal },
  );
  window.addEventListener("keydown", (event) => event.key === "Escape" && stop(), { signal, capture: true });
}
