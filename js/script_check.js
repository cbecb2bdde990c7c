// The validator's answer, which is the same code that runs the story.

import { api } from "../../scripts/api.js";

/** {shots, faults, file} of a script: see check_script in nodes/story.py. */
export async function checkScript(script) {
  const response = await api.fetchApi("/storymem/check", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ script }),
  });
  return await response.json();
}
