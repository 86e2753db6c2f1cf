
// --- the live page: what `attn-dsl view` adds to the page of a head ---

document.head.append(make("style", {}, `
.live :is(input, textarea) { width: 100%; font: 13px/1.6 var(--mono); color: inherit; background: var(--page); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; }
.live input[name="file"] { width: 220px; padding: 1px 10px; }
.live textarea { resize: vertical; tab-size: 4; }
.live label { display: block; color: var(--soft); font-size: 12.5px; margin: 10px 0 2px; }
.live .bar { margin: 8px 0; }
.live pre.wrong { margin: 6px 0; padding: 8px 12px; border-left: 3px solid var(--rival); background: var(--page); overflow: auto; font-size: 13px; }
.live pre:empty { display: none; }
.live [aria-pressed="true"] { background: var(--accent); color: var(--card); }
.live figure { overflow: auto; }
.live .frontrows th { width: auto; }
.live .changed { font-weight: 650; }
`));

// What was typed, the sentence and by head the program: it outlives errors, other heads and reloading.
const typed = JSON.parse(sessionStorage.getItem("typed") ?? "{}");
const keep = (name, text) => ((typed[name] = text), sessionStorage.setItem("typed", JSON.stringify(typed)));

async function ask(name, fields) {
  const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields) };
  const answer = await fetch("api/" + name, sent).catch(() => null);
  if (!answer) throw new Error("The server does not answer. Start `attn-dsl view` again; copy what you typed, which stays here.");
  const found = await answer.json().catch(() => ({ error: `The server failed (${answer.status}).` }));
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}

// Work that runs once at a time, and once more if it was asked for meanwhile.
function latest(work) {
  let running = false, again = false;
  return async () => {
    again = true;
    while (again && !running) {
      [running, again] = [true, false];
      await work().finally(() => (running = false));
    }
  };
}

let live = null; // the matrices of the edited program

function panel(of) {
  const { head } = of, own = () => (of.page.front[of.at] ?? head).program;
  const sentence = make("input", { value: typed.sentence ?? "", "aria-label": "Sentence", placeholder: "A sentence for the model; without one, a text of the run" });
  const source = make("textarea", { rows: 8, spellcheck: "false", "aria-label": "Program" });
  const file = make("input", { name: "file", "aria-label": "File", value: `${head.id.toLowerCase()}.attn` });
  const wrong = make("pre", { class: "wrong", role: "alert" }), unread = make("pre", { class: "wrong", role: "alert" });
  const state = make("span", { class: "caption", "aria-live": "polite" }), saved = make("span", { class: "caption" });
  const figures = make("p", { class: "told" }), matrices = make("div"), predictions = make("div", { class: "scroll" });
  const inModel = of.button("put into the model", () => {
    press([inModel], inModel.getAttribute("aria-pressed") === "true" ? null : inModel);
    predictions.replaceChildren();
    update();
  }, { class: "act", "aria-pressed": "false" });
  let text = "";

  const tell = (node, message) => (node.textContent = message);
  async function attempt(node, work) {
    try {
      await work();
      tell(node, "");
    } catch (error) {
      tell(node, error.message);
    }
    tell(state, "");
  }

  const read = latest(() => attempt(unread, async () => {
    const wanted = sentence.value.trim();
    if (wanted) tell(state, "the model reads the sentence; the first time it is loaded …");
    if (wanted) await ask("text", { text: wanted });
    text = wanted;
    update();
  }));

  const update = latest(() => attempt(wrong, async () => {
    const fields = { head: head.id, source: source.value, text };
    const answer = await ask("program", fields), page = await unpackPage(answer);
    if (!source.isConnected) return;
    const [iou, r2] = answer.program, [runIou, runR2] = answer.run;
    figures.replaceChildren("IoU ", make("b", {}, number(page.examples[0].ious[0], 3)), ` on this text; on ${answer.texts} select texts IoU `, make("b", {}, number(iou, 3)), make("small", {}, ` (the run's program ${number(runIou, 3)})`),
      ...(r2 === null ? [] : [", output R² ", make("b", {}, number(r2, 3)), make("small", {}, ` (${number(runR2, 3)})`)]), `; ${answer.nodes} nodes`);
    page.examples[0].text = "live";
    data.texts.live = answer.tokens;
    const share = Boolean(live?.share && page.examples[0].norms);
    live = Object.assign(new HeadPage(head, page), { share });
    const modes = page.examples[0].norms ? [make("div", { class: "switch", role: "group", "aria-label": "Shown in the matrices" }, ...live.modes)] : [];
    matrices.replaceChildren(make("div", { class: "bar" }, ...modes, live.size), make("div", { class: "matrices" }, ...live.frames.map((frame) => frame.figure)), live.readout, live.strips);
    live.openText(0);
    if (inModel.getAttribute("aria-pressed") !== "true") return;
    tell(state, "the model predicts …");
    const found = await ask("model", fields), columns = [data.causal ? "token" : "masked", "next", "p own", "p program", "top own", "top program", "KL"];
    const aligned = (i) => (i === 2 || i === 3 || i === 6 ? "number" : null);
    const row = (p) => [showToken(p.token), showToken(p.target), ...p.target_probability.map((x) => [number(x, 3)]), ...p.top.map((token, i) => [...showToken(token), " ", make("small", {}, number(p.top_probability[i]))]), [number(p.kl, 3)]];
    predictions.replaceChildren(
      make("p", { class: "told" }, "With the program in the place of the head, the most probable token changes at ", make("b", {}, found.changed), ` of ${found.predictions.length} positions; mean KL ${number(found.kl, 3)} nats; perplexity ${number(found.perplexity[0], 2)} → ${number(found.perplexity[1], 2)}.`),
      make("table", { class: "frontrows" }, make("thead", {}, make("tr", {}, ...columns.map((name, i) => make("th", { scope: "col", class: aligned(i) }, name)))),
        make("tbody", {}, ...found.predictions.map((p) => make("tr", { class: p.changed ? "changed" : null }, ...row(p).map((cell, i) => make("td", { class: aligned(i) }, ...cell)))))));
  }));

  const edit = (program) => ((source.value = program), keep(head.id, program), update());
  const save = (overwrite) => ask("save", { head: head.id, source: source.value, file: file.value, overwrite }).then(
    (done) => tell(saved, `saved as ${done.file}`),
    (error) => (error.status === 409 && !overwrite && confirm(`${error.message}. Overwrite it?`) ? save("yes") : tell(saved, error.message)));
  let timer = 0;
  sentence.addEventListener("input", () => (keep("sentence", sentence.value), clearTimeout(timer), (timer = setTimeout(read, 400))));
  source.addEventListener("input", () => (keep(head.id, source.value), update()));
  source.value = typed[head.id] ?? own();
  source.rows = clamp(source.value.split("\n").length + 1, 6, 24);
  setTimeout(() => (update(), sentence.value.trim() && read()));
  return make("section", { class: "live", "aria-label": "Try it" },
    make("h3", {}, "Try it"), sentence, unread, make("label", {}, "Program, as you edit it"), source, wrong,
    make("div", { class: "bar" }, of.button("start from the program above", () => edit(own()), { class: "act" }), inModel, file, of.button("save", () => save(""), { class: "act" }), saved, state),
    figures, matrices, predictions);
}

const { elements } = HeadPage.prototype;
HeadPage.prototype.elements = function () {
  return [...elements.call(this), panel(this)];
};
addEventListener("resize", () => live?.maps && live.draw());
scheme.addEventListener("change", () => live?.maps && live.draw());
