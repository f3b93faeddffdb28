"""The XML files of a Sentinel-2 L2A product, with the elements and order of ESA's own (PSD 14)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import shapely

from cropseg.core.bands import NODATA, QUANTIFICATION, S2_BANDS, SATURATED, SceneClass

if TYPE_CHECKING:
    from data_prep.simulate.writer import ProductMeta

_PSD: Final = "https://psd-14.sentinel2.eo.esa.int/PSD"
_XSI: Final = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
_CENTRE: Final = "SIMU"

SCENE_TEXTS: Final = {
    SceneClass.NO_DATA: "SC_NODATA",
    SceneClass.SATURATED: "SC_SATURATED_DEFECTIVE",
    SceneClass.DARK: "SC_DARK_FEATURE_SHADOW",
    SceneClass.CLOUD_SHADOW: "SC_CLOUD_SHADOW",
    SceneClass.VEGETATION: "SC_VEGETATION",
    SceneClass.BARE: "SC_NOT_VEGETATED",
    SceneClass.WATER: "SC_WATER",
    SceneClass.UNCLASSIFIED: "SC_UNCLASSIFIED",
    SceneClass.CLOUD_MEDIUM: "SC_CLOUD_MEDIUM_PROBA",
    SceneClass.CLOUD_HIGH: "SC_CLOUD_HIGH_PROBA",
    SceneClass.CIRRUS: "SC_THIN_CIRRUS",
    SceneClass.SNOW: "SC_SNOW_ICE",
}
"""Names of the scene classes in ``MTD_MSIL2A.xml``."""

_PERCENTAGES: Final = {
    SceneClass.NO_DATA: "NODATA_PIXEL_PERCENTAGE",
    SceneClass.SATURATED: "SATURATED_DEFECTIVE_PIXEL_PERCENTAGE",
    SceneClass.DARK: "DARK_FEATURES_PERCENTAGE",
    SceneClass.CLOUD_SHADOW: "CLOUD_SHADOW_PERCENTAGE",
    SceneClass.VEGETATION: "VEGETATION_PERCENTAGE",
    SceneClass.BARE: "NOT_VEGETATED_PERCENTAGE",
    SceneClass.WATER: "WATER_PERCENTAGE",
    SceneClass.UNCLASSIFIED: "UNCLASSIFIED_PERCENTAGE",
    SceneClass.CLOUD_MEDIUM: "MEDIUM_PROBA_CLOUDS_PERCENTAGE",
    SceneClass.CLOUD_HIGH: "HIGH_PROBA_CLOUDS_PERCENTAGE",
    SceneClass.CIRRUS: "THIN_CIRRUS_PERCENTAGE",
    SceneClass.SNOW: "SNOW_ICE_PERCENTAGE",
}


def iso(when: datetime) -> str:
    """A time as the products' XML has it, in UTC with milliseconds."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def product(meta: ProductMeta, outline: shapely.Polygon, statistics: Mapping[SceneClass, float]) -> str:
    """``MTD_MSIL2A.xml``: the user product.

    Args:
        meta: What is known of the product.
        outline: Ground that holds data, WGS 84.
        statistics: Percent of pixels of each scene class.
    """
    sensed, made, craft = iso(meta.acquired), iso(meta.generated), f"Sentinel-2{meta.platform[-1]}"
    files = "\n".join(f"            <IMAGE_FILE>{path}</IMAGE_FILE>" for path in meta.images.values())
    offsets = "\n".join(
        f'        <BOA_ADD_OFFSET band_id="{band.boa_id}">{meta.offset}</BOA_ADD_OFFSET>' for band in S2_BANDS.values()
    )
    offset_list = (
        f"\n      <BOA_ADD_OFFSET_VALUES_LIST>\n{offsets}\n      </BOA_ADD_OFFSET_VALUES_LIST>"
        if meta.has_offset
        else ""
    )
    spectral = "\n".join(
        f"""        <Spectral_Information bandId="{band.boa_id}" physicalBand="{_physical(band.name)}">
          <RESOLUTION>{band.resolution}</RESOLUTION>
          <Wavelength>
            <CENTRAL unit="nm">{band.wavelength}</CENTRAL>
          </Wavelength>
        </Spectral_Information>"""
        for band in S2_BANDS.values()
    )
    classes = "\n".join(
        f"""        <Scene_Classification_ID>
          <SCENE_CLASSIFICATION_TEXT>{text}</SCENE_CLASSIFICATION_TEXT>
          <SCENE_CLASSIFICATION_INDEX>{int(kind)}</SCENE_CLASSIFICATION_INDEX>
        </Scene_Classification_ID>"""
        for kind, text in SCENE_TEXTS.items()
    )
    special = "\n".join(
        f"""      <Special_Values>
        <SPECIAL_VALUE_TEXT>{text}</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>{value}</SPECIAL_VALUE_INDEX>
      </Special_Values>"""
        for text, value in (("NODATA", NODATA), ("SATURATED", SATURATED))
    )
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="{_PSD}/User_Product_Level-2A.xsd" {_XSI} \
xsi:schemaLocation="{_PSD}/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{sensed}</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>{sensed}</PRODUCT_STOP_TIME>
      <PRODUCT_URI>{meta.name}.SAFE</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE>
      <PROCESSING_BASELINE>{meta.baseline}</PROCESSING_BASELINE>
      <GENERATION_TIME>{made}</GENERATION_TIME>
      <PREVIEW_IMAGE_URL>Not applicable</PREVIEW_IMAGE_URL>
      <PREVIEW_GEO_INFO>Not applicable</PREVIEW_GEO_INFO>
      <Datatake datatakeIdentifier="{datatake_id(meta)}">
        <SPACECRAFT_NAME>{craft}</SPACECRAFT_NAME>
        <DATATAKE_TYPE>INS-NOBS</DATATAKE_TYPE>
        <DATATAKE_SENSING_START>{sensed}</DATATAKE_SENSING_START>
        <SENSING_ORBIT_NUMBER>{meta.relative_orbit}</SENSING_ORBIT_NUMBER>
        <SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION>
      </Datatake>
      <Query_Options completeSingleTile="true">
        <PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT>
      </Query_Options>
      <Product_Organisation>
        <Granule_List>
          <Granule datastripIdentifier="{datastrip_id(meta)}" granuleIdentifier="{_tile_id(meta)}" \
imageFormat="JPEG2000">
{files}
          </Granule>
        </Granule_List>
      </Product_Organisation>
    </Product_Info>
    <Product_Image_Characteristics>
{special}
      <Image_Display_Order>
        <RED_CHANNEL>3</RED_CHANNEL>
        <GREEN_CHANNEL>2</GREEN_CHANNEL>
        <BLUE_CHANNEL>1</BLUE_CHANNEL>
      </Image_Display_Order>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{QUANTIFICATION}</BOA_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>{offset_list}
      <Spectral_Information_List>
{spectral}
      </Spectral_Information_List>
      <REFERENCE_BAND>3</REFERENCE_BAND>
      <Scene_Classification_List>
{classes}
      </Scene_Classification_List>
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Product_Footprint>
      <Product_Footprint>
        <Global_Footprint>
          <EXT_POS_LIST>{_positions(outline)}</EXT_POS_LIST>
        </Global_Footprint>
      </Product_Footprint>
    </Product_Footprint>
    <Coordinate_Reference_System>
      <GEO_TABLES version="1">EPSG</GEO_TABLES>
      <HORIZONTAL_CS_TYPE>GEOGRAPHIC</HORIZONTAL_CS_TYPE>
    </Coordinate_Reference_System>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>{meta.cloud_cover:.6f}</Cloud_Coverage_Assessment>
    <Technical_Quality_Assessment>
      <DEGRADED_ANC_DATA_PERCENTAGE>0.0</DEGRADED_ANC_DATA_PERCENTAGE>
      <DEGRADED_MSI_DATA_PERCENTAGE>0</DEGRADED_MSI_DATA_PERCENTAGE>
    </Technical_Quality_Assessment>
    <Image_Content_QI>
{_content(meta, statistics)}
    </Image_Content_QI>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def tile(meta: ProductMeta, statistics: Mapping[SceneClass, float]) -> str:
    """``MTD_TL.xml``: the one granule, with its grid at 10, 20 and 60 m."""
    zone, side = f"WGS84 / UTM zone {meta.epsg % 100}{'N' if meta.epsg < 32700 else 'S'}", meta.size * 10
    sizes = "\n".join(
        f"""      <Size resolution="{step}">
        <NROWS>{side // step}</NROWS>
        <NCOLS>{side // step}</NCOLS>
      </Size>"""
        for step in (10, 20, 60)
    )
    positions = "\n".join(
        f"""      <Geoposition resolution="{step}">
        <ULX>{meta.ulx}</ULX>
        <ULY>{meta.uly}</ULY>
        <XDIM>{step}</XDIM>
        <YDIM>-{step}</YDIM>
      </Geoposition>"""
        for step in (10, 20, 60)
    )
    schema = f"{_PSD}/S2_PDI_Level-2A_Tile_Metadata.xsd"
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_Tile_ID xmlns:n1="{schema}" {_XSI} xsi:schemaLocation="{schema}">
  <n1:General_Info>
    <TILE_ID metadataLevel="Brief">{_tile_id(meta)}</TILE_ID>
    <DATASTRIP_ID metadataLevel="Standard">{datastrip_id(meta)}</DATASTRIP_ID>
    <DOWNLINK_PRIORITY metadataLevel="Standard">NOMINAL</DOWNLINK_PRIORITY>
    <SENSING_TIME metadataLevel="Standard">{iso(meta.acquired)}</SENSING_TIME>
    <Archiving_Info metadataLevel="Expertise">
      <ARCHIVING_CENTRE>{_CENTRE}</ARCHIVING_CENTRE>
      <ARCHIVING_TIME>{iso(meta.generated)}</ARCHIVING_TIME>
    </Archiving_Info>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding metadataLevel="Brief">
      <HORIZONTAL_CS_NAME>{zone}</HORIZONTAL_CS_NAME>
      <HORIZONTAL_CS_CODE>{meta.crs}</HORIZONTAL_CS_CODE>
{sizes}
{positions}
    </Tile_Geocoding>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info metadataLevel="Standard">
    <Image_Content_QI>
      <CLOUDY_PIXEL_PERCENTAGE>{meta.cloud_cover:.6f}</CLOUDY_PIXEL_PERCENTAGE>
{_content(meta, statistics)}
    </Image_Content_QI>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_Tile_ID>
"""


def manifest(meta: ProductMeta, outline: shapely.Polygon, files: Iterable[tuple[str, int, str]]) -> str:
    """``manifest.safe``: every other file with its size and MD5.

    Args:
        meta: What is known of the product.
        outline: Ground that holds data, WGS 84.
        files: (path in the product, size in bytes, hex MD5).
    """
    units, objects = [], []
    for path, size, digest in files:
        identity = _object_id(path)
        kind = "application/octet-stream" if path.endswith(".jp2") else "text/xml"
        units.append(f'      <xfdu:contentUnit><dataObjectPointer dataObjectID="{identity}"/></xfdu:contentUnit>')
        objects.append(f"""    <dataObject ID="{identity}">
      <byteStream mimeType="{kind}" size="{size}">
        <fileLocation href="./{path}" locatorType="URL"/>
        <checksum checksumName="MD5">{digest}</checksum>
      </byteStream>
    </dataObject>""")
    lines = "\n"
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<xfdu:XFDU xmlns:gml="http://www.opengis.net/gml" xmlns:safe="http://www.esa.int/safe/sentinel/1.1" \
xmlns:xfdu="urn:ccsds:schema:xfdu:1" version="esa/safe/sentinel/1.1/sentinel-2/msi/archive_l2a_user_product">
  <informationPackageMap>
    <xfdu:contentUnit dmdID="acquisitionPeriod platform" pdiID="processing" \
textInfo="SENTINEL-2 MSI Level-2A User Product" unitType="Product_Level-2A">
{lines.join(units)}
    </xfdu:contentUnit>
  </informationPackageMap>
  <metadataSection>
    <metadataObject ID="acquisitionPeriod" category="DMD" classification="DESCRIPTION">
      <metadataWrap mimeType="text/xml" textInfo="Acquisition Period" vocabularyName="SAFE">
        <xmlData>
          <safe:acquisitionPeriod>
            <safe:startTime>{iso(meta.acquired)}</safe:startTime>
          </safe:acquisitionPeriod>
        </xmlData>
      </metadataWrap>
    </metadataObject>
    <metadataObject ID="measurementFrameSet" category="DMD" classification="DESCRIPTION">
      <metadataWrap mimeType="text/xml" textInfo="Frame Set" vocabularyName="SAFE">
        <xmlData>
          <safe:frameSet>
            <safe:footPrint srsName="http://www.opengis.net/gml/srs/epsg.xml#4326">
              <gml:coordinates>{_positions(outline)}</gml:coordinates>
            </safe:footPrint>
          </safe:frameSet>
        </xmlData>
      </metadataWrap>
    </metadataObject>
  </metadataSection>
  <dataObjectSection>
{lines.join(objects)}
  </dataObjectSection>
</xfdu:XFDU>
"""


def datatake_id(meta: ProductMeta) -> str:
    """Such as ``GS2A_20221005T115411_038058_N04.00``."""
    return f"G{meta.platform}_{_stamp(meta.acquired)}_{meta.absolute_orbit:06d}_N{meta.baseline}"


def datastrip_id(meta: ProductMeta) -> str:
    """Such as ``S2A_OPER_MSI_L2A_DS_SIMU_20221005T164454_S20221005T115407_N04.00``."""
    return (
        f"{meta.platform}_OPER_MSI_L2A_DS_{_CENTRE}_{_stamp(meta.generated)}_S{_stamp(meta.acquired)}_N{meta.baseline}"
    )


def _tile_id(meta: ProductMeta) -> str:
    orbit = f"A{meta.absolute_orbit:06d}"
    return f"{meta.platform}_OPER_MSI_L2A_TL_{_CENTRE}_{_stamp(meta.generated)}_{orbit}_T{meta.tile}_N{meta.baseline}"


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y%m%dT%H%M%S")


def _physical(band: str) -> str:
    return f"B{int(band[1:])}" if band[1:].isdigit() else band


def _positions(outline: shapely.Polygon) -> str:
    """Latitude before longitude, the ring closed, as EXT_POS_LIST has it."""
    return " ".join(f"{lat:.12f} {lon:.12f}" for lon, lat in outline.exterior.coords)


def _content(meta: ProductMeta, statistics: Mapping[SceneClass, float]) -> str:
    lines = []
    for kind, name in _PERCENTAGES.items():
        share = meta.nodata_percentage if kind is SceneClass.NO_DATA else statistics[kind]
        lines.append(f"      <{name}>{share:.6f}</{name}>")
    return "\n".join(lines)


def _object_id(path: str) -> str:
    if path == "MTD_MSIL2A.xml":
        return "S2_Level-2A_Product_Metadata"
    if path.endswith("/MTD_TL.xml"):
        return "S2_Level-2A_Tile1_Metadata"
    _, _, layer, resolution = path.rsplit("/", 1)[-1].removesuffix(".jp2").split("_")
    return f"IMG_DATA_Band_{layer}_{resolution}_Tile1_Data"
