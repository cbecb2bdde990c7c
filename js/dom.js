/**
 * An HTML element. Children that are strings become text nodes, so that no text is ever read as HTML.
 * @param {string} tag
 * @param {Object} properties set on the element; `dataset`, `style` and `on` (event name -> listener) are merged
 * @param {...(Node|string|null)} children null is left out
 */
export function element(tag, { dataset = {}, style = {}, on = {}, ...properties } = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  Object.assign(made.dataset, dataset);
  Object.assign(made.style, style);
  for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Loads a style sheet that lies beside a module: `stylesheet(import.meta.url, "name.css")`. */
export function stylesheet(module, name) {
  document.head.append(element("link", { rel: "stylesheet", href: new URL(name, module).href }));
}
