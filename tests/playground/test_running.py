"""The playground while a request runs, in a real browser: Cancel, a busy or lost server, and answers of a proxy."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.page import FOCUSED_ERROR, RUN
from tests.support.servers import HeldServer, held_server, running_gateway, running_server
from tools import PROJECT, SCRIPTS
from tools.browser import Browser
from tools.client import wait_until
from tools.reference_model import warm_cache
from tools.server import health

pytestmark = pytest.mark.slow

# A request is begun, and seen to run. `button` finds a button by its name, `said` waits for words of the status.
BEGIN = """
const button = (name) => page.getByRole("button", { name, exact: true });
const said = (words) => page.locator("#status").filter({ hasText: words }).waitFor();
const seconds = page.locator(".run .help").filter({ hasText: /^[1-9]\\d* s$/ });
await page.locator("#input-text").fill("Mars");
await button("Run").click();
"""
# The other prediction that takes the container's only slot.
OTHER = """
const create = new URL("v1/models/a/b/predictions", page.url()).href;
const other = await (await page.request.post(create, { data: { input: { text: "other" } } })).json();
"""
STATE = """
const state = async () => ({
  status: await page.locator("#status").innerText(),
  row: (await page.locator(".run").innerText()).split("\\n"),
  focused: await page.evaluate(() => document.activeElement.innerText),
  run: await button("Run").getAttribute("aria-disabled"),
  answer: await page.locator("#answer").innerText(),
});
"""
# The page does not wait for its answer, so it asks for it later: what it does with a slow container.
POLLS = """
await page.route("**/v1/models/**", async (route) => {
  const { prefer, ...headers } = route.request().headers();
  await route.continue({ headers });
});
"""


@pytest.fixture(scope="module")
def one_slot(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    """A container that takes one prediction at a time, and can be held."""
    folder = tmp_path_factory.mktemp("one-slot")
    with held_server(folder, warm_cache(small_model, folder / "cache"), slots=1) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(one_slot: HeldServer) -> Iterator[str]:
    with running_gateway([SCRIPTS / "playground", "--container", one_slot.url, "--port", "0"]) as (url, _):
        yield url


@pytest.fixture
def page(gateway: str) -> Iterator[str]:
    """The URL of the page in front of the container with one slot; what a test leaves running is canceled after it."""
    yield gateway
    for prediction in requests.get(f"{gateway}/v1/predictions", timeout=600).json()["results"]:
        requests.post(prediction["urls"]["cancel"], timeout=600)


@pytest.mark.parametrize("seen", ["", "await seconds.waitFor();"], ids=["at once", "after a second"])
def test_a_canceled_request_ends_in_the_container_and_a_new_one_is_answered(
    browser: Browser, page: str, one_slot: HeldServer, seen: str
) -> None:
    script = f"""
    {BEGIN}{STATE}{seen}
    await button("Cancel").click();
    await said("Cancelled after");
    const cancelled = await state();
    {RUN}
    return [cancelled, await state()];
    """
    begun = one_slot.begun()
    with ThreadPoolExecutor() as threads:
        with one_slot.held():
            visit = threads.submit(browser.visit, page, script)
            wait_until(lambda: visit.done() or one_slot.begun() == begun + 2)
            waiting = one_slot.waiting()
        cancelled, answered = visit.result().value
    assert waiting == 1  # only the new one
    assert cancelled["row"] == ["Run", "Cancelled"]
    assert (cancelled["focused"], cancelled["run"], cancelled["answer"]) == ("Run", None, "")
    assert answered["status"].startswith("1 vector of 768 numbers")


def test_a_request_that_waits_for_a_slot_says_so_and_is_canceled_with_the_keyboard(
    browser: Browser, page: str, one_slot: HeldServer
) -> None:
    script = f"""
    {OTHER}{BEGIN}{STATE}
    await said("all its slots are taken");
    await button("Run").click({{ force: true }});
    const running = await state();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await said("Cancelled after");
    return [running, await state(), await (await page.request.get(other.urls.get)).json()];
    """
    with one_slot.held():
        visit = browser.visit(page, script)
        running, cancelled, other = visit.value
        assert other["status"] == "processing"
    assert running["row"][:2] == ["Run", "Cancel"]
    assert (running["focused"], running["run"]) == ("Run", "true")
    assert (cancelled["row"], cancelled["focused"]) == (["Run", "Cancelled"], "Run")
    assert sum(url.endswith("/predictions") for url in visit.requests) == 1


def test_a_request_ends_in_the_container_when_its_page_is_left(
    browser: Browser, page: str, one_slot: HeldServer
) -> None:
    with one_slot.held():
        browser.visit(page, f'{BEGIN} await seconds.waitFor(); await page.goto("about:blank");')
        wait_until(lambda: one_slot.waiting() == 0)


def test_the_seconds_are_counted_and_a_cancel_that_nobody_confirms_is_given_up(
    browser: Browser, page: str, one_slot: HeldServer
) -> None:
    script = f"""
    await page.route("**/cancel", () => {{}});
    await page.clock.install();
    {BEGIN}
    await page.clock.fastForward(65_000);
    await page.locator(".run .help").filter({{ hasText: /^\\d\\d+ s$/ }}).waitFor();
    await button("Cancel").click();
    await said("Cancelling");
    await page.clock.fastForward(15_000);
    await said("No answer");
    {FOCUSED_ERROR}
    """
    with one_slot.held():
        error = browser.visit(page, script).value
    assert error["field"] is None
    assert error["message"].startswith("The server did not confirm the cancel")


def test_a_lost_connection_ends_the_request_on_the_page_and_a_new_one_is_answered(browser: Browser, page: str) -> None:
    script = f"""
    {POLLS}
    await page.route("**/v1/predictions/*", async (route) => {{
      await page.context().setOffline(true);
      await route.continue();
    }}, {{ times: 1 }});
    {BEGIN}
    await said("No answer");
    const error = await (async () => {{ {FOCUSED_ERROR} }})();
    await page.context().setOffline(false);
    {RUN}
    return [error, await page.locator("#status").innerText(), await page.locator(".error:visible").count()];
    """
    error, status, left = browser.visit(page, script).value
    assert (error["field"], error["shown"]) == (None, 1)
    assert error["message"].startswith("The server does not answer.")
    assert (status.split(" of ")[0], left) == ("1 vector", 0)


def test_a_cancel_that_cannot_be_sent_is_not_called_one(browser: Browser, page: str, one_slot: HeldServer) -> None:
    script = f"""
    {BEGIN}
    await seconds.waitFor();
    await page.context().setOffline(true);
    await button("Cancel").click();
    await said("No answer");
    {FOCUSED_ERROR}
    """
    with one_slot.held():
        error = browser.visit(page, script).value
    assert error["message"].startswith("The server did not confirm the cancel")


def test_an_answer_is_shown_although_the_connection_was_lost_for_a_while(browser: Browser, page: str) -> None:
    script = f"""
    {POLLS}
    const asked = "**/v1/predictions/*";
    await page.route(asked, (route) => route.fulfill({{ status: 502, body: "<html>" }}), {{ times: 1 }});
    await page.route(asked, (route) => route.abort(), {{ times: 2 }});
    {BEGIN}
    await said("1 vector");
    return page.locator(".error:visible").count();
    """
    visit = browser.visit(page, script)
    assert visit.value == 0
    assert sum("/v1/predictions/" in url for url in visit.requests) == 4


def test_an_answer_that_is_no_prediction_is_shown_with_its_status_and_its_beginning(
    browser: Browser, playground: str
) -> None:
    unreadable = "which this page cannot read:"
    answers: list[tuple[dict[str, Any], str]] = [
        (
            {"status": 502, "body": f"<html>\n<h1>Oh</h1>{'x' * 500}"},
            f"The server answered 502 Bad Gateway, {unreadable} <html>\n<h1>Oh</h1>{'x' * 182} …",
        ),
        ({"status": 200, "body": "Please sign in"}, f"The server answered 200 OK, {unreadable} Please sign in"),
        ({"status": 200, "body": "null"}, f"The server answered 200 OK, {unreadable} null"),
        ({"status": 500, "body": "[]"}, f"The server answered 500 Internal Server Error, {unreadable} []"),
        ({"status": 504}, "The server answered 504 Gateway Timeout, with nothing in it."),
        ({"status": 429, "json": {"detail": "Too many requests"}}, "Too many requests"),
        ({"status": 201, "json": {"status": "aborted"}}, "The prediction is aborted."),
        ({"status": 200, "json": {}}, "The prediction is without a status."),
    ]
    script = f"""
    const errors = [];
    for (const answer of given) {{
      await page.route("**/v1/**", (route) => route.fulfill(answer), {{ times: 1 }});
      {RUN}
      errors.push(await (async () => {{ {FOCUSED_ERROR} }})());
    }}
    return errors;
    """
    errors = browser.visit(playground, script, given=[answer for answer, _ in answers]).value
    assert [error["message"] for error in errors] == [message for _, message in answers]
    assert {(error["field"], error["shown"]) for error in errors} == {(None, 1)}


def test_an_output_that_has_no_vectors_is_an_error(browser: Browser, playground: str) -> None:
    answer = {"status": "succeeded", "output": {"score": 1}}
    script = f'await page.route("**/v1/**", (route) => route.fulfill({{ json: given }}));{RUN}{FOCUSED_ERROR}'
    error = browser.visit(playground, script, given=answer).value
    assert error["message"].startswith("The page cannot show this answer: ")


def test_a_schema_that_cannot_be_read_is_said(browser: Browser, playground: str) -> None:
    script = """
    const said = [];
    for (const body of given) {
      await page.route("**/openapi.json", (route) => route.fulfill({ status: 200, body }), { times: 1 });
      await page.reload();
      await page.locator("#status").filter({ hasText: /server|schema/ }).waitFor();
      said.push(await page.locator("#status").innerText());
    }
    return said;
    """
    assert browser.visit(playground, script, given=["<html>Sign in", '{"openapi": "3.1.0"}']).value == [
        "The server answered 200 OK, which this page cannot read: <html>Sign in",
        "The container's schema has no inputs.",
    ]


def test_a_refusal_of_a_container_that_was_starting_is_shown_at_its_field(
    browser: Browser, small_model: Path, tmp_path: Path
) -> None:
    schema = json.loads((PROJECT / "openapi.json").read_text())
    schema["components"]["schemas"]["embedding_dim"]["enum"].append(300)  # which the container does not know
    script = f"""
    await page.locator("#input-text").fill("Mars");
    await page.locator("#input-embedding_dim").selectOption("300");
    {RUN}{FOCUSED_ERROR}
    """
    with running_server(warm_cache(small_model, tmp_path / "cache"), tmp_path / "log", slots=1) as (_, container):
        wait_until(lambda: health(container) != "UNREACHABLE")
        with running_gateway([SCRIPTS / "playground", "--container", container, "--port", "0"]) as (url, _):
            error = browser.visit(url, script, replaced={"/openapi.json": schema}).value
    assert (error["field"], error["invalid"]) == ("embedding_dim", "true")
    assert error["message"] == "embedding_dim: 300 is not one of [768,512,256,128]"
