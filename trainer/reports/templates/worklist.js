// Images load as they come into view, and once the page stands the rest: print shows all of them.
addEventListener("load", () => setTimeout(() => {
  for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager";
}));
{
  const panel = document.getElementById("filters");
  if (panel) {
    const find = (id) => document.getElementById(id);
    const rows = [...document.querySelectorAll("#rows > tr")].map((row) => ({
      row,
      flags: (row.dataset.flags ?? "").split(" ").filter(Boolean),
      isPositive: "positive" in row.dataset,
      text: [...row.querySelectorAll(".file, .remarks")].map((cell) => cell.textContent).join(" ").toLowerCase(),
    }));

    const hasFlag = (flags, choice) => {
      if (choice === "any") return flags.length > 0;
      if (choice === "none") return flags.length === 0;
      return choice === "" || flags.includes(choice.slice(1));
    };

    const show = () => {
      const words = find("words").value.toLowerCase().split(/\s+/).filter(Boolean);
      const choice = find("flagged").value, isOnly = find("positive")?.checked ?? false;
      let count = 0;
      for (const { row, flags, isPositive, text } of rows) {
        const isShown = hasFlag(flags, choice) && (isPositive || !isOnly) && words.every((word) => text.includes(word));
        row.hidden = !isShown;
        count += isShown;
      }
      const isFiltered = words.length > 0 || choice !== "" || isOnly;
      find("shown").textContent = isFiltered ? `Filtered: ${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} files shown.` : "";
    };

    find("words").addEventListener("input", show);
    find("flagged").addEventListener("change", show);
    find("positive")?.addEventListener("change", show);
    find("all").addEventListener("click", () => {
      find("words").value = find("flagged").value = "";
      if (find("positive")) find("positive").checked = false;
      show();
    });
    panel.hidden = false;
    show();  // A browser may have kept what was typed before the page was loaded again.
  }
}
