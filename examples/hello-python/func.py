# SPDX-License-Identifier: Apache-2.0
"""Greets; and reads a file when asked to, to show what a function can see."""

import io
import json
import os

from fdk import response


def handler(ctx, data: io.BytesIO):
    asked = json.loads(data.getvalue() or b"{}")
    print("called with", asked)
    if "read" in asked:
        with open(asked["read"]) as file:
            return response.Response(ctx, response_data=file.read(), headers={"Content-Type": "text/plain"})
    body = {"message": f"{os.environ['GREETING']} {asked.get('name', 'world')}"}
    return response.Response(ctx, response_data=json.dumps(body), headers={"Content-Type": "application/json"})
