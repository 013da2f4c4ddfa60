"""make_buckets.py BUCKET...: buckets that are not there yet are made. The store and its credentials come from AWS_*."""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

s3 = boto3.client("s3", config=Config(retries={"max_attempts": 10, "mode": "adaptive"}))
for bucket in sys.argv[1:]:
    try:
        s3.head_bucket(Bucket=bucket)
        print(f"{bucket} is there")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            sys.exit(f"error: bucket {bucket} cannot be looked at ({error}): check the key and the secret")
        s3.create_bucket(Bucket=bucket)
        print(f"{bucket} made")
