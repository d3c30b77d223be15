from __future__ import annotations

from collections.abc import Iterator

import pytest

from view.browser import Browser, Page, chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for a module: it takes half a second to start."""
    program = chromium()
    if program is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    here = Browser(program, tmp_path_factory.mktemp("browser"))
    yield here
    here.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab. At its end the browser has nothing to complain of, and nothing was asked of another machine."""
    here = browser.page()
    here.look()
    yield here
    assert here.complaints() == []
    assert [one for one in here.asked() if not one.startswith(("http://127.0.0.1:", "file:///"))] == []
    here.close()
