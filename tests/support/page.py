"""Actions of the tests in the playground's page, in playwright's JavaScript."""

RUN = """
await page.getByRole("button", { name: "Run", exact: true }).click();
await page.locator("#status").filter({ hasText: /vector|No answer/ }).waitFor();
"""
PASTE_TEXTS = """
await page.evaluate((texts) => navigator.clipboard.writeText(texts.join("\\n")), given.texts);
await page.getByLabel("texts[0]", { exact: true }).press("Control+V");
"""
