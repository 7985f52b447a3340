"""Runs the whole third-party data storage flow with python3-requests.

flow.py URL USER; the password comes in AMT_PASSWORD. Exits 0 only if every step gave what was expected.
"""
import base64
import os
import re
import sys
from xml.sax.saxutils import escape

import requests
from requests.auth import HTTPDigestAuth

url, user = sys.argv[1:]
http = requests.Session()
http.auth = HTTPDigestAuth(user, os.environ["AMT_PASSWORD"])
http.trust_env = False

AMT = "http://intel.com/wbem/wscim/1/amt-schema/1/"
ADM = AMT + "AMT_ThirdPartyDataStorageAdministrationService"
STO = AMT + "AMT_ThirdPartyDataStorageService"

ENVELOPE = """<?xml version="1.0" encoding="utf-8"?>
<Envelope xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
          xmlns="http://www.w3.org/2003/05/soap-envelope">
  <Header>
    <a:Action>{action}</a:Action><a:To>/wsman</a:To><w:ResourceURI>{uri}</w:ResourceURI><a:MessageID>{number}</a:MessageID>
    <a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>
  </Header>
  <Body>{body}</Body>
</Envelope>"""

number = 0


def call(uri, method, want=0, **params):
    global number
    number += 1
    inputs = "".join(f"<r:{k}>{escape(str(v))}</r:{k}>" for k, v in params.items())
    body = f'<r:{method}_INPUT xmlns:r="{uri}">{inputs}</r:{method}_INPUT>'
    answer = http.post(url, data=ENVELOPE.format(action=f"{uri}/{method}", uri=uri, number=number, body=body).encode(), timeout=20)
    text = answer.text
    assert answer.status_code == 200, f"{method}: HTTP {answer.status_code} {text}"
    assert f"<b:RelatesTo>{number}</b:RelatesTo>" in text, f"{method}: {text}"
    out = {}
    for name, value in re.findall(r"<g:(\w+)>([^<]*)</g:\1>", text[text.index("<a:Body>"):]):
        out.setdefault(name, []).append(value)
    assert out["ReturnValue"] == [str(want)], f"{method}: {out}"
    print(method, "ok")
    return {k: v[0] if len(v) == 1 else v for k, v in out.items()}


enterprise = call(ADM, "AddStorageEaclEntry", EnterpriseName="requests")["Handle"]
allocation = call(ADM, "AddStorageFpaclEntry", AttrType=1, ApplicationName="app", VendorName="vendor", IsPartner="true", TotalAllocationSize=8192)["Handle"]
session = call(STO, "RegisterApplication", CallerUUID="13AEE355D2BFBB6117A088AEDD7037EA", VendorName="vendor", ApplicationName="app", EnterpriseName="requests")["SessionHandle"]
me = call(STO, "GetCurrentApplicationHandle", SessionHandle=session)["ApplicationHandle"]
block = call(STO, "AllocateBlock", SessionHandle=session, BytesRequested=4096, BlockHidden=0, BlockName="block")["BlockHandle"]
data = bytes(range(256)) * 8
written = call(STO, "WriteBlock", SessionHandle=session, BlockHandle=block, ByteOffset=0, Data=base64.b64encode(data).decode())["BytesWritten"]
assert written == str(len(data)), written
read = call(STO, "ReadBlock", SessionHandle=session, BlockHandle=block, ByteOffset=0, ByteCount=len(data))["Data"]
assert base64.b64decode(read) == data
assert call(STO, "GetAllocatedBlocks", SessionHandle=session, BlockOwnerApplication=me)["BlockHandles"] == block
call(STO, "DeallocateBlock", SessionHandle=session, BlockHandle=block)
call(STO, "ReadBlock", want=13, SessionHandle=session, BlockHandle=block, ByteOffset=0, ByteCount=1)
call(STO, "RemoveApplication", SessionHandle=session)
call(ADM, "RemoveStorageFpaclEntry", Handle=allocation)
call(ADM, "RemoveStorageEaclEntry", Handle=enterprise)
print("flow complete")
