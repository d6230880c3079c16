"""Packaging of Beammeter: flat top-level packages, heavy dependencies as extras."""

from pathlib import Path

from setuptools import setup

PACKAGES = [
    "meters",
    "billing",
    "warehouse",
    "transforms",
    "pipelines",
    "service",
    "runners",
    "examples",
]

setup(
    name="beammeter",
    version="0.1.0",
    description="Usage events to invoices that are right to the last cent, on Apache Beam.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=PACKAGES,
    package_data={
        "examples": ["*/*.yaml", "*/*.csv.gz", "*/*.jsonl.gz", "*/*.parquet", "*/README.md"],
        "meters": ["py.typed"],
    },
    install_requires=[
        "apache-beam>=2.70,<3",
        "pyarrow>=18",
        "polars>=1.30,<3",
        "chdb>=4.1,<5",
        "clickhouse-connect>=1.0,<2",
        "confluent-kafka>=2.6,<3",
        "pydantic>=2.10,<3",
        "msgspec>=0.19,<1",
        "xxhash>=3.5,<4",
        "cel-python>=0.5,<0.6",
        "google-re2>=1.1",
        "lark>=1.2,<2",
        "numpy>=1.26,<3",
        "PyYAML>=6.0.2,<7",
        "py-moneyed>=3.0,<4",
        "tzdata>=2025.1",
        "click>=8.1,<9",
        "rich>=13.9,<16",
        "zstandard>=0.23,<1",
        "fastapi>=0.115,<1",
        "uvicorn>=0.34,<1",
        "uvloop>=0.21,<1; sys_platform != 'win32'",
        "httptools>=0.6.4,<1",
    ],
    extras_require={
        "s3": ["apache-beam[aws]>=2.70,<3"],
        "gcs": ["apache-beam[gcp]>=2.70,<3"],
        "dev": [
            "pytest>=8.3,<10",
            "pytest-xdist>=3.6,<4",
            "hypothesis>=6.120,<7",
            "ruff>=0.9,<1",
            "mypy>=1.14,<3",
            "types-PyYAML",
            "moto[server]>=5.0.25,<6",
            "boto3>=1.35",
            "duckdb>=1.2,<3",
            "apache-beam[aws]>=2.70,<3",
            "httpx2>=2,<3",
            "schemathesis>=4,<5",
            "flexprice>=2.1,<3",
            "openmeter==1.0.0b236",
            "lago-python-client>=1.55,<2",
        ],
    },
    entry_points={"console_scripts": ["beammeter = runners.cli:entry"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Office/Business :: Financial",
    ],
)
