"""Actions of the tests in the playground's page, in playwright's JavaScript."""

RUN = """
await page.getByRole("button", { name: "Run", exact: true }).click();
await page.locator("#status").filter({ hasText: /vector|No answer/ }).waitFor();
"""
PASTE_TEXTS = """
await page.evaluate((texts) => navigator.clipboard.writeText(texts.join("\\n")), given.texts);
await page.getByLabel("texts[0]", { exact: true }).press("Control+V");
"""
FOCUSED_ERROR = """
return page.evaluate(() => {
  const focused = document.activeElement;
  const described = (focused.getAttribute("aria-describedby") ?? "").split(" ");
  const errors = described.map((id) => document.getElementById(id)).filter((element) => element?.matches(".error"));
  return {
    field: focused.closest("[data-field]")?.dataset.field ?? null,
    name: focused.getAttribute("aria-label"),
    below: errors[0] ? errors[0].getBoundingClientRect().top - focused.getBoundingClientRect().bottom : null,
    invalid: focused.getAttribute("aria-invalid"),
    message: errors.length > 0 ? errors[0].innerText : focused.innerText,
    shown: [...document.querySelectorAll(".error")].filter((error) => error.checkVisibility()).length,
  };
});
"""
