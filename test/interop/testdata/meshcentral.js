// Runs the whole third-party data storage flow with MeshCentral's AMT stack.
// node meshcentral.js STACK-FOLDER HOST PORT USER TLS(0|1); the password comes in AMT_PASSWORD.
// Prints one line per step and exits 0 only if every step gave what was expected.
'use strict';
const path = require('path');
const [stackDir, host, port, user, tls] = process.argv.slice(2);
const CreateComm = require(path.join(stackDir, 'amt-wsman-comm.js'));
const CreateWsman = require(path.join(stackDir, 'amt-wsman.js'));
const CreateAmt = require(path.join(stackDir, 'amt.js'));

const comm = new CreateComm(host, Number(port), user, process.env.AMT_PASSWORD, Number(tls), null, null);
comm.xtlsFingerprint = 0; // the simulator's certificate is its own: the flow is judged here, not the trust
const amt = CreateAmt(CreateWsman(comm));
const ADM = 'AMT_ThirdPartyDataStorageAdministrationService';
const STO = 'AMT_ThirdPartyDataStorageService';

const fail = (step, why) => { console.log(`${step}: ${why}`); process.exit(1); };
const deadline = setTimeout(() => fail('deadline', 'no end after 60 seconds'), 60000);

function exec(cls, method, args, want = 0) {
  return new Promise((resolve) => amt.Exec(cls, method, args, (_, name, response, status) => {
    if (status !== 200) fail(method, `HTTP ${status} ${JSON.stringify(response && response.Body)}`);
    if (response.Body.ReturnValue !== want) fail(method, `ReturnValue ${response.Body.ReturnValue}, want ${want}`);
    console.log(`${method} ok`);
    resolve(response.Body);
  }));
}
function get(cls) {
  return new Promise((resolve) => amt.Get(cls, (_, name, response, status) => {
    if (status !== 200) fail(cls, `HTTP ${status}`);
    console.log(`Get ${cls} ok`);
    resolve(response.Body);
  }));
}
function enumerate(cls) {
  return new Promise((resolve) => amt.Enum(cls, (_, name, items, status) => {
    if (status !== 200) fail(cls, `enumerate: HTTP ${status}`);
    console.log(`Enum ${cls} ok`);
    resolve(items);
  }));
}
const equal = (step, got, want) => {
  if (JSON.stringify(got) !== JSON.stringify(want)) fail(step, `got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
};

(async () => {
  const general = await get('AMT_GeneralSettings');
  if (!/^Digest:[0-9A-F]{32}$/.test(general.DigestRealm)) fail('DigestRealm', general.DigestRealm);
  equal('challenge realm', comm.digestRealm, general.DigestRealm);
  equal('ElementName', (await get(STO)).ElementName, 'Intel(r) AMT Third Party Data Storage Service');
  equal('instances', (await enumerate(ADM)).length, 1);

  const enterprise = await exec(ADM, 'AddStorageEaclEntry', { EnterpriseName: 'mesh co' });
  equal('enterprise name', (await exec(ADM, 'GetStorageEaclEntry', { Handle: enterprise.Handle })).EnterpriseName, 'mesh co');
  await exec(ADM, 'AddStorageEaclEntry', { EnterpriseName: 'mesh co' }, 2058);
  const allocation = await exec(ADM, 'AddStorageFpaclEntry', { AttrType: 1, ApplicationName: 'app', VendorName: 'vendor', IsPartner: true, TotalAllocationSize: 49152 });

  const session = await exec(STO, 'RegisterApplication', { CallerUUID: '13AEE355D2BFBB6117A088AEDD7037EA', VendorName: 'vendor', ApplicationName: 'app', EnterpriseName: 'mesh co' });
  const S = { SessionHandle: session.SessionHandle };
  const self = await exec(STO, 'GetCurrentApplicationHandle', S);
  const block = await exec(STO, 'AllocateBlock', { ...S, BytesRequested: 4096, BlockHidden: 'false', BlockName: 'block' });
  const data = Buffer.from('same host, same asset \u{1F5A5} <&>').toString('base64');
  equal('BytesWritten', (await exec(STO, 'WriteBlock', { ...S, BlockHandle: block.BlockHandle, ByteOffset: 100, Data: data })).BytesWritten, Buffer.from(data, 'base64').length);
  equal('Data', (await exec(STO, 'ReadBlock', { ...S, BlockHandle: block.BlockHandle, ByteOffset: 100, ByteCount: Buffer.from(data, 'base64').length })).Data, data);
  equal('unwritten', (await exec(STO, 'ReadBlock', { ...S, BlockHandle: block.BlockHandle, ByteOffset: 96, ByteCount: 4 })).Data, '/////w==');
  equal('BlockHandles', (await exec(STO, 'GetAllocatedBlocks', { ...S, BlockOwnerApplication: self.ApplicationHandle })).BlockHandles, block.BlockHandle);
  const second = await exec(STO, 'AllocateBlock', { ...S, BytesRequested: 4096, BlockHidden: 'true', BlockName: 'hidden' });
  equal('two BlockHandles', (await exec(STO, 'GetAllocatedBlocks', { ...S, BlockOwnerApplication: self.ApplicationHandle })).BlockHandles, [block.BlockHandle, second.BlockHandle]);
  const about = await exec(STO, 'GetBlockAttributes', { ...S, BlockHandle: second.BlockHandle });
  equal('attributes', [about.BlockSize, about.BlockHidden, about.BlockName], [4096, true, 'hidden']);
  await exec(STO, 'DeallocateBlock', { ...S, BlockHandle: second.BlockHandle });
  await exec(STO, 'DeallocateBlock', { ...S, BlockHandle: block.BlockHandle });
  equal('no BlockHandles', (await exec(STO, 'GetAllocatedBlocks', { ...S, BlockOwnerApplication: self.ApplicationHandle })).BlockHandles, undefined);
  await exec(ADM, 'RemoveStorageEaclEntry', { Handle: enterprise.Handle }, 2056);
  await exec(STO, 'RemoveApplication', S);
  await exec(STO, 'GetCurrentApplicationHandle', S, 8);
  await exec(ADM, 'RemoveStorageFpaclEntry', { Handle: allocation.Handle });
  await exec(ADM, 'RemoveStorageEaclEntry', { Handle: enterprise.Handle });
  clearTimeout(deadline);
  console.log('flow complete');
  process.exit(0);
})();
