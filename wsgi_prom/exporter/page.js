"use strict";
// Replace what has changed by what a later page shows, each second while somebody looks. The page is complete without this.
const controls = document.getElementById("controls");
const problem = document.getElementById("problem");
const button = document.createElement("button");
let paused = false;

async function refresh() {
  let told = "";
  try {
    // Without the password that the page's own address may have: fetch refuses one.
    const address = location.origin + location.pathname + location.search;
    const answer = await fetch(address, { headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(`The exporter answers ${answer.status}.`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = fresh.querySelectorAll(".live");
    if (!found.length) throw new Error("Something else than the exporter answers.");
    for (const later of found) {
      const now = document.getElementById(later.id);
      if (!now || now.innerHTML === later.innerHTML) continue;
      const focused = now.contains(document.activeElement) ? document.activeElement.id : "";
      now.replaceChildren(...later.childNodes);
      if (focused) document.getElementById(focused)?.focus();
    }
  } catch (error) {
    told = error instanceof TypeError || error.name === "TimeoutError" ? "The exporter does not answer." : error.message;
    told += " The figures are those of before; the page tries again each second.";
  }
  if (problem.textContent !== told) problem.textContent = told;
}

async function run() {
  if (!paused && !document.hidden) await refresh();
  setTimeout(run, 1000);
}

function pause() {
  paused = !paused;
  button.setAttribute("aria-pressed", paused);
}

button.type = "button";
button.textContent = "Pause";
button.setAttribute("aria-pressed", "false");
button.addEventListener("click", pause);
controls.replaceChildren(button);
document.addEventListener("click", (event) => {
  const link = event.target.closest("thead a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.replaceState(null, "", link.href);
  refresh();
});
setTimeout(run, 1000);
