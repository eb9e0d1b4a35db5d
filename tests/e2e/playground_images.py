"""Takes the pictures of the playground that the documentation shows: `python -m tests.e2e.playground_images`.

They go to `docs/images`; look at them before they are committed. Chromium and a font with Chinese are needed.
"""

from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.conftest import System, started
from tests.e2e.test_playground import CHROMIUM, DESKTOP, OPTIONS, PHONE, button, submit

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PAINT = "script> delay 1.5\nscript> left_double(point='<point>46 140</point>')\nscript> delay 1.5\nscript> {}"


def take(page: Page, name: str) -> None:
    page.wait_for_timeout(1500)  # pictures are on their way; a page that is live is never idle
    page.screenshot(path=IMAGES / f"playground-{name}.png")


def take_all(system: System, page: Page, phone: Page) -> None:
    url = system.stack.plan.url
    system.done("Open calculator and compute 123 * 456", metadata={"team": "north"})
    system.done(
        "Find the lighthouse\nscript> failed(content='The site asks for a password that I do not have.')"
    )
    system.submit(
        "Log in to the bank\nscript> call_user(content='Please log in.')", metadata={"team": "south"}
    )
    page.goto(url)
    done = submit(page, "Open notepad and type Hello World")
    expect(page.locator("header .badge")).to_have_text("Finished")
    button(page, "Step 2").click()
    expect(page.get_by_test_id("mark")).to_be_visible()
    take(page, "task")
    system.submit("Tidy up the desktop\n" + "script> delay 2\nscript> wait()\n" * 20)
    page.goto(url)
    expect(page.get_by_role("listitem").first).to_contain_text("Running")
    take(page, "tasks")
    page.goto(f"{url}/new")
    page.get_by_label("What should the agent do?").fill(
        "Open the browser and find the opening hours of the museum"
    )
    take(page, "new")

    open_editor = PAINT.format("type(content='Dear Ada,')")
    task_id = system.submit(f"Write a letter to Ada\n{open_editor}\nscript> delay 60\nscript> wait()")
    page.goto(f"{url}/tasks/{task_id}")
    expect(page.get_by_role("region", name="Steps").locator("article")).to_have_count(2)
    button(page, "Take over").click()
    expect(page.get_by_text("The screen is yours").first).to_be_visible()
    take(page, "takeover")
    page.goto(f"{url}/sandboxes")
    expect(page.get_by_role("listitem").first).to_be_visible()
    take(page, "sandboxes")

    phone.goto(f"{url}/tasks/{done}")
    expect(phone.locator(".stage img")).to_be_visible()
    take(phone, "phone")
    system.http.post("/api/agent/cancel", json={})


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with started() as system, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport=DESKTOP, locale="en-GB")
        phone = browser.new_page(viewport=PHONE, locale="zh-CN", color_scheme="dark", device_scale_factor=2)
        take_all(system, page, phone)
        browser.close()


if __name__ == "__main__":
    main()
