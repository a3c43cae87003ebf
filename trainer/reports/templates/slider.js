{
  const panel = document.getElementById("slider");
  if (panel) {
    const counts = JSON.parse(document.getElementById("counts").textContent);
    const slider = document.getElementById("threshold");
    const prevalence = document.getElementById("prevalence");
    const STEPS = counts.tp.length - 1;
    let exact = null;  // The operating point, which is no step of the slider.

    const ratio = (part, whole) => (whole ? part / whole : null);
    const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(2)} %`);

    const isGiven = () => prevalence.value !== "" && prevalence.checkValidity();
    const used = () => {
      if (isGiven()) return `PPV and NPV are those at a prevalence of ${Number(prevalence.value)} %.`;
      if (prevalence.value === "" && prevalence.checkValidity()) return "";
      return "A prevalence is from 0 to 100 %: PPV and NPV are those of this split.";
    };

    const at = (threshold) => {
      const step = Math.round(threshold * STEPS);
      const { tp, fp } = exact ?? { tp: counts.tp[step], fp: counts.fp[step] };
      return { tp, fp, fn: counts.positives - tp, tn: counts.negatives - fp };
    };

    const ratesOf = ({ tp, fp, fn, tn }) => {
      const sensitivity = ratio(tp, tp + fn), specificity = ratio(tn, tn + fp);
      let ppv = ratio(tp, tp + fp), npv = ratio(tn, tn + fn);
      if (isGiven()) {  // Bayes's rule.
        const share = Number(prevalence.value) / 100;
        const hits = sensitivity * share, alarms = (1 - specificity) * (1 - share);
        const clears = specificity * (1 - share), misses = (1 - sensitivity) * share;
        const isKnown = sensitivity !== null && specificity !== null;
        ppv = isKnown ? ratio(hits, hits + alarms) : null;
        npv = isKnown ? ratio(clears, clears + misses) : null;
      }
      const accuracy = ratio(tp + tn, tp + fp + fn + tn), f1 = ratio(2 * tp, 2 * tp + fp + fn);
      return { sensitivity, specificity, ppv, npv, accuracy, f1 };
    };

    const move = (id, across, up) => {
      for (const mark of document.querySelectorAll(`[id^="${id}-now"]`)) {
        const [left, top, right, bottom] = mark.ownerSVGElement.dataset.box.split(" ").map(Number);
        const x = across === null ? 0 : across * (right - left);
        mark.setAttribute("transform", `translate(${x} ${-(up ?? 0) * (bottom - top)})`);
        mark.setAttribute("visibility", across === null || up === null ? "hidden" : "visible");
      }
    };

    const show = () => {
      const threshold = exact ? exact.threshold : Number(slider.value);
      const cells = at(threshold), rates = ratesOf(cells);
      document.getElementById("threshold-value").textContent = threshold.toFixed(3);
      document.getElementById("prevalence-used").textContent = used();
      for (const cell of panel.querySelectorAll("[data-cell]")) {
        cell.textContent = cells[cell.dataset.cell].toLocaleString("en");
      }
      for (const cell of panel.querySelectorAll("[data-rate]")) {
        const value = rates[cell.dataset.rate];
        cell.textContent = cell.dataset.rate !== "f1" ? percent(value) : value === null ? "–" : value.toFixed(4);
      }
      slider.setAttribute("aria-valuetext", `${threshold.toFixed(3)}: sensitivity ${percent(rates.sensitivity)}, specificity ${percent(rates.specificity)}`);
      for (const button of panel.querySelectorAll("[data-threshold]")) {
        const isPoint = button.dataset.threshold === "point";
        button.setAttribute("aria-pressed", String(isPoint ? exact !== null : exact === null && threshold === 0.5));
      }
      const own = ratio(cells.tp, cells.tp + cells.fp);
      move("roc", rates.specificity === null ? null : 1 - rates.specificity, rates.sensitivity);
      move("pr", rates.sensitivity, own);
      move("scores", threshold, 0);
    };

    slider.addEventListener("input", () => { exact = null; show(); });
    prevalence.addEventListener("input", show);
    for (const button of panel.querySelectorAll("[data-threshold]")) {
      button.addEventListener("click", () => {
        exact = button.dataset.threshold === "point" ? counts.point : null;
        slider.value = exact ? exact.threshold : button.dataset.threshold;
        show();
      });
    }
    panel.hidden = false;
    show();
  }
}
