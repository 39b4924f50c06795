"""One row an asset: the part of the worklist's SQL that joins the images of each. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.rows import IMAGES


@dataclasses.dataclass(frozen=True, slots=True)
class Asset:
    """That the images of one asset are one row: the asset's expression, and how many images of it are asked at most."""

    expr: str
    max_images: int


def newest_assets(asset: Asset, columns: Sequence[str], orders: Sequence[str]) -> str:
    """The part of the WITH clause that makes `newest`, one row an asset, of `images`, one row an image.

    Its newest usable image gives the columns. The key is the asset and a digest of the keys of the images that are asked,
    so that new views make a new key. An asset without a usable image is as unusable as its newest one.
    """
    newest_first = ", ".join(["problem IS NOT NULL", *(f"{order} DESC" for order in orders), "key"])
    return f"""named AS (
  SELECT *, IF(wl_of IS NULL OR TRIM(wl_of) = '', CONCAT('null:', key), wl_of) AS wl_asset FROM images
), views AS (
  SELECT *, SUM(wl_copies) OVER (PARTITION BY wl_asset) AS wl_all_copies,
    ROW_NUMBER() OVER (PARTITION BY wl_asset ORDER BY {newest_first}) AS wl_view
  FROM named
), assets AS (
  SELECT wl_asset AS wl_group, COUNT(*) AS wl_images,
    TO_JSON_STRING(ARRAY_AGG(gcs_uri IGNORE NULLS ORDER BY wl_view)) AS {IMAGES},
    SUBSTR(TO_HEX(SHA256(STRING_AGG(key, '\\n' ORDER BY key))), 1, 16) AS wl_digest
  FROM views WHERE wl_view = 1 OR (wl_view <= {int(asset.max_images)} AND problem IS NULL) GROUP BY wl_group
), newest AS (
  SELECT {", ".join(["gcs_uri", *columns, *orders])}, problem, CONCAT(wl_asset, '@', wl_digest) AS key,
    wl_all_copies AS wl_copies, wl_asset, wl_images, {IMAGES}
  FROM views JOIN assets ON wl_group = wl_asset WHERE wl_view = 1
), """
