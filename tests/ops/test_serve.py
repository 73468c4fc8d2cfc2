"""Where the gateway listens: what a person may write for it, and what is said when it cannot be."""

import pytest
from aiohttp import web

from ops.serve import listening


@pytest.mark.parametrize("listen", ["[::1]:0", "::1:0"])
async def test_an_ipv6_address_may_stand_in_brackets(listen: str) -> None:
    async with listening(web.Application(), listen, print) as url:
        assert url.startswith("http://[::1]:")


async def test_an_address_that_cannot_be_had_is_named_with_the_setting() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:8700: .*CAIRN_LISTEN"):
        async with listening(web.Application(), "192.0.2.1:8700", print):
            pass
