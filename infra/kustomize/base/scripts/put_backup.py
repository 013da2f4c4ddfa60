"""put_backup.py FILE BUCKET PREFIX KEEP: store a dump under its time, remove all but the newest KEEP. The store comes
from AWS_*.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import boto3

file, bucket, prefix, keep = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
if file.stat().st_size == 0:
    sys.exit(f"error: {file} is empty: the dump failed, earlier backups are kept")
s3 = boto3.client("s3")
key = f"{prefix}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}{file.suffix}"
s3.upload_file(str(file), bucket, key)
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
stored = sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))
for old in stored[:-keep]:
    s3.delete_object(Bucket=bucket, Key=old)
print(f"s3://{bucket}/{key}: {file.stat().st_size} bytes, {min(len(stored), keep)} backups kept")
