package amt

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/hostid"
	"samehost/internal/wsman"
)

// record is the nth of many different records.
func record(n int) hostid.Record {
	r := hostid.Record{Issued: time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)}
	for i := range r.HostID {
		r.HostID[i] = byte(n + i + 1)
	}
	for i := range r.Seed {
		r.Seed[i] = byte(3*n + i + 1)
	}
	for f := range n % hostid.NumFacts {
		r.Facts[f] = hostid.DigestOf(r.HostID, hostid.Fact(f), "value")
	}
	return r.Portable()
}

func frame(t testing.TB, sequence uint64, r hostid.Record) []byte {
	t.Helper()
	b, err := hostid.EncodeFrame(sequence, r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flashBlock is a block of a canned device.
type flashBlock struct {
	name string
	size int
	data []byte // what follows is 0xFF
}

func (b *flashBlock) at(offset, count int) []byte {
	return hostid.PadFrame(bytes.Clone(b.data), offset+count)[offset : offset+count]
}

// flash is a canned local device with these blocks, handles from 1.
func flash(blocks ...*flashBlock) *canned {
	find := func(p wsman.Param) *flashBlock { return blocks[atoi(p.Value)-1] }
	return &canned{answers: map[string]answer{
		"AMT_GeneralSettings":         says("<HostName>pc1</HostName>"),
		"RegisterApplication":         says("<SessionHandle>0aF3</SessionHandle>" + returns(0)),
		"UnregisterApplication":       says(returns(0)),
		"RemoveApplication":           says(returns(0)),
		"GetCurrentApplicationHandle": says("<ApplicationHandle>77</ApplicationHandle>" + returns(0)),
		"GetAllocatedBlocks": func(int, []wsman.Param) any {
			return strings.ReplaceAll(handleList(len(blocks)), "Handles", "BlockHandles") + returns(0)
		},
		"GetBlockAttributes": func(_ int, in []wsman.Param) any {
			b := find(in[1])
			return fmt.Sprintf("<BlockSize>%d</BlockSize><BlockHidden>true</BlockHidden><BlockName>%s</BlockName>", b.size, b.name) + returns(0)
		},
		"AllocateBlock": func(_ int, in []wsman.Param) any {
			blocks = append(blocks, &flashBlock{name: in[3].Value, size: atoi(in[1].Value)})
			return fmt.Sprintf("<BlockHandle>%d</BlockHandle>", len(blocks)) + returns(0)
		},
		"DeallocateBlock": says(returns(0)),
		"ReadBlock": func(_ int, in []wsman.Param) any {
			return data(find(in[1]).at(atoi(in[2].Value), atoi(in[3].Value)))
		},
		"WriteBlock": func(_ int, in []wsman.Param) any {
			b := find(in[1])
			part, err := base64.StdEncoding.DecodeString(in[3].Value)
			if err != nil {
				return fault("SchemaValidationError")
			}
			offset := atoi(in[2].Value)
			b.data = hostid.PadFrame(b.data, offset+len(part))
			copy(b.data[offset:], part)
			return fmt.Sprintf("<BytesWritten>%d</BytesWritten>", len(part)) + returns(0)
		},
	}}
}

func data(b []byte) string {
	return "<Data>" + base64.StdEncoding.EncodeToString(b) + "</Data>" + returns(0)
}

func (c *canned) store(t *testing.T) *Store { return NewStore(c.client(t), DefaultEnterprise) }

// methods are the names of the calls made, without the class, of those that are given.
func (c *canned) methods(only ...string) (names []string) {
	for _, call := range c.made() {
		name := call[strings.IndexByte(call, '.')+1:]
		name, _, _ = strings.Cut(name, "(")
		for _, o := range only {
			if name == o {
				names = append(names, name)
			}
		}
	}
	return names
}

// wantOnly checks that err wraps want and no other of hostid's errors.
func wantOnly(t *testing.T, err, want error) {
	t.Helper()
	for _, sentinel := range []error{hostid.ErrNotStored, hostid.ErrNotInitialized, hostid.ErrCorrupt, hostid.ErrNewer, hostid.ErrUnavailable} {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Fatalf("%v\nmust wrap %q and no other of hostid's", err, want)
		}
	}
}

func TestFirstSaveCallByCall(t *testing.T) {
	t.Parallel()
	device := flash()
	s := device.store(t)
	_, err := s.Load(t.Context())
	wantOnly(t, err, hostid.ErrNotStored)
	if err := s.Save(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load(t.Context())
	if err != nil || !got.Equal(record(1)) {
		t.Fatalf("Load gives %+v, %v", got, err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := frame(t, 1, record(1))
	encoded := base64.StdEncoding.EncodeToString(f)
	list := "GetAllocatedBlocks(SessionHandle=0aF3, BlockOwnerApplication=77)"
	var want []string
	for _, call := range []string{
		"RegisterApplication(CallerUUID=7C1D0F6E2B5A4E0C9D3B61A84F2E9C57, VendorName=samehost, ApplicationName=samehost, EnterpriseName=samehost)",
		"GetCurrentApplicationHandle(SessionHandle=0aF3)",
		list, // Load
		list, // Save
		"AllocateBlock(SessionHandle=0aF3, BytesRequested=4096, BlockHidden=true, BlockName=host ID 0)",
		"ReadBlock(SessionHandle=0aF3, BlockHandle=1, ByteOffset=0, ByteCount=1024)",
		"AllocateBlock(SessionHandle=0aF3, BytesRequested=4096, BlockHidden=true, BlockName=host ID 1)",
		"ReadBlock(SessionHandle=0aF3, BlockHandle=2, ByteOffset=0, ByteCount=1024)",
		"WriteBlock(SessionHandle=0aF3, BlockHandle=1, ByteOffset=0, Data=" + encoded + ")",
		"ReadBlock(SessionHandle=0aF3, BlockHandle=1, ByteOffset=0, ByteCount=1024)",
		"WriteBlock(SessionHandle=0aF3, BlockHandle=2, ByteOffset=0, Data=" + encoded + ")",
		"ReadBlock(SessionHandle=0aF3, BlockHandle=2, ByteOffset=0, ByteCount=1024)",
		list, // Load
		"GetBlockAttributes(SessionHandle=0aF3, BlockHandle=1)",
		"GetBlockAttributes(SessionHandle=0aF3, BlockHandle=2)",
		"ReadBlock(SessionHandle=0aF3, BlockHandle=1, ByteOffset=0, ByteCount=1024)",
		"ReadBlock(SessionHandle=0aF3, BlockHandle=2, ByteOffset=0, ByteCount=1024)",
		"UnregisterApplication(SessionHandle=0aF3)",
	} {
		want = append(want, storageClass+"."+call)
	}
	if diff := cmp.Diff(want, device.made()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestWhichRecordCounts(t *testing.T) {
	t.Parallel()
	f := func(sequence uint64, n int) []byte { return frame(t, sequence, record(n)) }
	bad := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	zero := make([]byte, 1024)
	block := func(slot int, data []byte) *flashBlock { return &flashBlock{blockNames[slot], BlockSize, data} }
	for _, test := range []struct {
		name   string
		blocks []*flashBlock
		want   int // record; 0: err
		err    error
		// After saving record 9: the writes, by handle.
		writes []string
	}{
		{"no block", nil, 0, hostid.ErrNotStored, []string{"1", "2"}},
		{"blank blocks", []*flashBlock{block(0, nil), block(1, nil)}, 0, hostid.ErrNotStored, []string{"1", "2"}},
		{"blocks of zeros", []*flashBlock{block(0, zero), block(1, zero)}, 0, hostid.ErrNotStored, []string{"1", "2"}},
		{"blocks of others only", []*flashBlock{{"other", BlockSize, f(9, 3)}, {"", BlockSize, f(9, 3)}}, 0, hostid.ErrNotStored, []string{"3", "4"}},
		{"the first is newer", []*flashBlock{block(0, f(2, 1)), block(1, f(1, 2))}, 1, nil, []string{"2"}},
		{"the second is newer", []*flashBlock{block(0, f(1, 1)), block(1, f(2, 2))}, 2, nil, []string{"1"}},
		{"listed the other way round", []*flashBlock{block(1, f(2, 2)), block(0, f(1, 1))}, 2, nil, []string{"2"}},
		{"one block only", []*flashBlock{block(1, f(5, 1))}, 1, nil, []string{"2"}},
		{"the second is blank", []*flashBlock{block(0, f(1, 1)), block(1, nil)}, 1, nil, []string{"2"}},
		{"the newer is damaged", []*flashBlock{block(0, f(1, 1)), block(1, bad(f(2, 2)))}, 1, nil, []string{"2"}},
		{"the older is damaged", []*flashBlock{block(0, bad(f(1, 1))), block(1, f(2, 2))}, 2, nil, []string{"1"}},
		{"both are damaged", []*flashBlock{block(0, bad(f(1, 1))), block(1, bad(f(2, 2)))}, 0, hostid.ErrCorrupt, []string{"1", "2"}},
		{"one is damaged, one blank", []*flashBlock{block(0, bad(f(1, 1))), block(1, nil)}, 0, hostid.ErrCorrupt, []string{"1", "2"}},
		{"a newer version beside a whole record", []*flashBlock{block(0, f(7, 1)), block(1, newerFrame(1))}, 0, hostid.ErrNewer, nil},
		{"a newer version alone", []*flashBlock{block(0, newerFrame(1))}, 0, hostid.ErrNewer, nil},
		{"a second block of a name, with the highest sequence", []*flashBlock{block(0, f(1, 1)), block(1, f(2, 2)), block(0, f(3, 3))}, 3, nil, []string{"1"}},
		{"the best elsewhere, the first damaged", []*flashBlock{block(0, bad(f(1, 1))), block(1, f(2, 2)), block(0, f(3, 3))}, 3, nil, []string{"1"}},
		{"the best elsewhere, the second damaged", []*flashBlock{block(0, f(1, 1)), block(1, bad(f(2, 2))), block(0, f(3, 3))}, 3, nil, []string{"2"}},
		{"the best elsewhere, the second older", []*flashBlock{block(0, f(2, 1)), block(1, f(1, 2)), block(0, f(3, 3))}, 3, nil, []string{"2"}},
		{"a second block of a name, with a newer version", []*flashBlock{block(0, f(1, 1)), block(1, f(2, 2)), block(1, newerFrame(1))}, 0, hostid.ErrNewer, nil},
		{"a second block of a name, older", []*flashBlock{block(0, f(3, 3)), block(1, f(2, 2)), block(0, f(1, 1))}, 3, nil, []string{"2"}},
		{"a block too small to be ours counts, and stays", []*flashBlock{{blockNames[0], 1024, f(7, 3)}, block(1, f(2, 2))}, 3, nil, []string{"3"}},
		{"a block too small for any record", []*flashBlock{{blockNames[0], 8, nil}, block(1, f(2, 2))}, 2, nil, []string{"3"}},
		{"a larger block", []*flashBlock{{blockNames[0], 8192, f(7, 3)}, block(1, f(2, 2))}, 3, nil, []string{"2"}},
		{"the highest sequence there is", []*flashBlock{block(0, f(1<<40, 1)), block(1, f(2, 2))}, 1, nil, []string{"2"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			device := flash(test.blocks...)
			got, err := device.store(t).Load(t.Context())
			if test.err != nil {
				wantOnly(t, err, test.err)
			} else if err != nil || !got.Equal(record(test.want)) {
				t.Fatalf("Load gives %+v, %v; want record %d", got, err, test.want)
			}
			if got := device.methods("AllocateBlock", "WriteBlock", "DeallocateBlock"); len(got) != 0 {
				t.Fatalf("Load makes the calls %q", got)
			}

			s := device.store(t)
			err = s.Save(t.Context(), record(9))
			if test.err == hostid.ErrNewer {
				wantOnly(t, err, hostid.ErrNewer)
				if got := device.methods("AllocateBlock", "WriteBlock"); len(got) != 0 {
					t.Fatalf("calls %q beside a newer version", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var writes []string
			for _, call := range device.made() {
				if _, args, ok := strings.Cut(call, ".WriteBlock("); ok {
					_, handle, _ := strings.Cut(args, "BlockHandle=")
					handle, _, _ = strings.Cut(handle, ",")
					writes = append(writes, handle)
				}
			}
			if diff := cmp.Diff(test.writes, writes); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}
			if got, err := device.store(t).Load(t.Context()); err != nil || !got.Equal(record(9)) {
				t.Errorf("Load after Save gives %+v, %v", got, err)
			}
			if err := device.store(t).Save(t.Context(), record(9)); err != nil {
				t.Fatal(err)
			}
			if got := device.methods("WriteBlock"); len(got) != len(writes) {
				t.Errorf("saving the same again writes %d times", len(got)-len(writes))
			}
		})
	}
}

func TestAnAllocatedBlockMayComeWithOldContent(t *testing.T) {
	t.Parallel()
	// The firmware gives a block that held a record of ours in another life: its sequence is the one to go beyond.
	old := &flashBlock{blockNames[0], BlockSize, frame(t, 40, record(4))}
	var blocks []*flashBlock
	device := flash()
	device = device.with(map[string]answer{
		"GetAllocatedBlocks": func(int, []wsman.Param) any {
			return strings.ReplaceAll(handleList(len(blocks)), "Handles", "BlockHandles") + returns(0)
		},
		"GetBlockAttributes": func(_ int, in []wsman.Param) any {
			b := blocks[atoi(in[1].Value)-1]
			return fmt.Sprintf("<BlockSize>%d</BlockSize><BlockName>%s</BlockName>", b.size, b.name) + returns(0)
		},
		"AllocateBlock": func(n int, in []wsman.Param) any {
			blocks = append(blocks, old)
			if n == 1 {
				blocks[1] = &flashBlock{name: blockNames[1], size: BlockSize}
			}
			return fmt.Sprintf("<BlockHandle>%d</BlockHandle>", len(blocks)) + returns(0)
		},
		"ReadBlock": func(_ int, in []wsman.Param) any {
			return data(blocks[atoi(in[1].Value)-1].at(atoi(in[2].Value), atoi(in[3].Value)))
		},
		"WriteBlock": func(_ int, in []wsman.Param) any {
			part, _ := base64.StdEncoding.DecodeString(in[3].Value)
			blocks[atoi(in[1].Value)-1].data = part
			return fmt.Sprintf("<BytesWritten>%d</BytesWritten>", len(part)) + returns(0)
		},
	})
	if err := device.store(t).Save(t.Context(), record(5)); err != nil {
		t.Fatal(err)
	}
	if got, err := device.store(t).Load(t.Context()); err != nil || !got.Equal(record(5)) {
		t.Errorf("Load gives %+v, %v", got, err)
	}
}

func TestStoreAgainstOddAnswers(t *testing.T) {
	t.Parallel()
	whole := func() []*flashBlock {
		return []*flashBlock{{blockNames[0], BlockSize, frame(t, 1, record(1))}, {blockNames[1], BlockSize, frame(t, 2, record(2))}}
	}
	for _, test := range []struct {
		name    string
		answers map[string]answer
		load    error // what Load wraps; nil: it gives record 2
		save    error // what Save of record 3 wraps; nil: it succeeds
		is      error // and what both wrap besides
		text    string
	}{
		{"no session handle", map[string]answer{"RegisterApplication": says(returns(0))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, wsman.ErrBadReply, "no SessionHandle"},
		{"a session handle without end", map[string]answer{"RegisterApplication": says("<SessionHandle>" + strings.Repeat("A", 257) + "</SessionHandle>" + returns(0))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, wsman.ErrBadReply, "SessionHandle of 257 characters"},
		{"sixteen others have a session", map[string]answer{"RegisterApplication": says(returns(StatusMaxLimitReached))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, StatusMaxLimitReached, "RegisterApplication: "},
		{"names not allowed", map[string]answer{"RegisterApplication": says(returns(StatusInvalidRegistrationData))},
			hostid.ErrNotInitialized, hostid.ErrNotInitialized, StatusInvalidRegistrationData, `no enterprise "samehost" in this AMT, or the application was first registered over the network`},
		{"AMT is not set up any more", map[string]answer{
			"RegisterApplication":              says(returns(StatusInvalidRegistrationData)),
			"AMT_SetupAndConfigurationService": says("<ProvisioningState>0</ProvisioningState>"),
		}, hostid.ErrUnavailable, hostid.ErrUnavailable, ErrNotProvisioned, "provisioning state 0"},
		{"not set up, by its number", map[string]answer{"RegisterApplication": says(returns(StatusInvalidProvisioningState))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, ErrNotProvisioned, "PT_STATUS_INVALID_PROVISIONING_STATE (32)"},
		{"no such class", map[string]answer{"RegisterApplication": nil},
			hostid.ErrUnavailable, hostid.ErrUnavailable, ErrNo3PDS, "no third-party data storage"},
		{"the realm is missing", map[string]answer{"RegisterApplication": says(fault("AccessDenied"))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, ErrNoRealm, "the realm Storage"},
		{"not ready", map[string]answer{"GetAllocatedBlocks": says(returns(StatusNotReady))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, ErrNotReady, "GetAllocatedBlocks: "},
		{"sessions end at once", map[string]answer{"GetAllocatedBlocks": says(returns(StatusApplicationNotRegistered))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, StatusApplicationNotRegistered, ""},
		{"a session ends once", map[string]answer{"GetBlockAttributes": once(StatusApplicationNotRegistered)}, nil, nil, nil, ""},
		{"the application was removed", map[string]answer{"GetAllocatedBlocks": once(StatusApplicationDoesNotExist)}, nil, nil, nil, ""},
		{"a block was deallocated and is listed", map[string]answer{
			"GetAllocatedBlocks": says("<BlockHandles>1</BlockHandles><BlockHandles>2</BlockHandles><BlockHandles>3</BlockHandles>" + returns(0)),
			"GetBlockAttributes": func(_ int, in []wsman.Param) any {
				if in[1].Value == "3" {
					return returns(StatusBlockDoesNotExist)
				}
				return fmt.Sprintf("<BlockSize>4096</BlockSize><BlockName>host ID %d</BlockName>", atoi(in[1].Value)-1) + returns(0)
			},
		}, nil, nil, nil, ""},
		{"a block vanishes while it is read", map[string]answer{"ReadBlock": once(StatusBlockDoesNotExist)}, nil, nil, nil, ""},
		{"the newer block is locked by another", map[string]answer{"ReadBlock": refuses("2", StatusBlockLockedByOther)},
			hostid.ErrUnavailable, hostid.ErrUnavailable, StatusBlockLockedByOther, `block "host ID 1": ReadBlock: another application has locked the block`},
		{"the older block is locked by another", map[string]answer{"ReadBlock": refuses("1", StatusBlockLockedByOther)},
			hostid.ErrUnavailable, hostid.ErrUnavailable, StatusBlockLockedByOther, `block "host ID 0"`},
		{"too many blocks", map[string]answer{
			"GetAllocatedBlocks": says(strings.ReplaceAll(handleList(maxBlocks+1), "Handles", "BlockHandles") + returns(0)),
			"GetBlockAttributes": says("<BlockSize>4096</BlockSize><BlockName>host ID 0</BlockName>" + returns(0)),
		}, hostid.ErrUnavailable, hostid.ErrUnavailable, wsman.ErrBadReply, "more than 16 blocks"},
		{"more data than asked for", map[string]answer{"ReadBlock": says(data(make([]byte, 1025)))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, wsman.ErrBadReply, "1025 bytes of Data, 1024 asked for"},
		{"no data", map[string]answer{"ReadBlock": says("<Data></Data>" + returns(0))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, wsman.ErrBadReply, "0 bytes of Data"},
		{"no base64", map[string]answer{"ReadBlock": says("<Data>***</Data>" + returns(0))},
			hostid.ErrUnavailable, hostid.ErrUnavailable, wsman.ErrBadReply, "ReadBlock"},
		{"data in small pieces", map[string]answer{"ReadBlock": pieces(100)}, nil, nil, nil, ""},
		{"writes in small pieces", map[string]answer{"WriteBlock": partial(64, 0)}, nil, nil, nil, ""},
		{"writes in small pieces that say no", map[string]answer{"WriteBlock": partial(64, StatusInternalError)}, nil, nil, nil, ""},
		{"writes in pieces too small", map[string]answer{"WriteBlock": partial(1, 0)},
			nil, hostid.ErrUnavailable, nil, "16 of "},
		{"nothing written, without a reason", map[string]answer{"WriteBlock": partial(0, 0)},
			nil, hostid.ErrUnavailable, wsman.ErrBadReply, "success with nothing written"},
		{"more written than sent", map[string]answer{"WriteBlock": says("<BytesWritten>5000</BytesWritten>" + returns(0))},
			nil, hostid.ErrUnavailable, wsman.ErrBadReply, `BytesWritten is "5000"`},
		{"a count that is none", map[string]answer{"WriteBlock": says("<BytesWritten>-1</BytesWritten>" + returns(0))},
			nil, hostid.ErrUnavailable, wsman.ErrBadReply, `BytesWritten is "-1"`},
		{"worn out", map[string]answer{"WriteBlock": says(returns(StatusFlashWriteLimitExceeded))},
			nil, hostid.ErrUnavailable, StatusFlashWriteLimitExceeded, `block "host ID 0": WriteBlock: the firmware refuses writes for a while`},
		{"writes are accepted and forgotten", map[string]answer{"WriteBlock": says(returns(0))},
			nil, hostid.ErrUnavailable, errNotKept, `block "host ID 0": what was read back is not what was written`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			blocks := whole()
			device := flash(blocks...)
			real := device.answers
			device = device.with(nil)
			for name, a := range test.answers {
				device.answers[name] = a
				if a == nil {
					continue
				}
				underneath := real[name]
				device.answers[name] = func(n int, in []wsman.Param) any {
					got := a(n, in)
					if got == nil && underneath != nil {
						return underneath(n, in)
					}
					if f, ok := got.(func(answer) any); ok {
						return f(underneath)
					}
					return got
				}
			}
			check := func(what string, err, want error) {
				t.Helper()
				if want == nil {
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					return
				}
				wantOnly(t, err, want)
				if test.is != nil && !errors.Is(err, test.is) {
					t.Errorf("%s: %v\nis not %q", what, err, test.is)
				}
				if !strings.Contains(err.Error(), test.text) {
					t.Errorf("%s: %v\ndoes not say %q", what, err, test.text)
				}
			}
			got, err := device.store(t).Load(t.Context())
			check("Load", err, test.load)
			if test.load == nil && !got.Equal(record(2)) {
				t.Errorf("Load gives %+v", got)
			}
			if test.load != nil && !got.Equal(hostid.Record{}) {
				t.Errorf("Load gives a record with its error")
			}
			check("Save", device.store(t).Save(t.Context(), record(3)), test.save)
			if test.save != nil && !bytes.HasPrefix(blocks[1].data, frame(t, 2, record(2))) {
				t.Error("the newer record was overwritten")
			}
			if got := len(device.methods("RegisterApplication")); got > 2*maxRegistrations {
				t.Errorf("%d registrations in two operations", got)
			}
			if got := len(device.methods("WriteBlock")); got > maxWrites {
				t.Errorf("%d writes", got)
			}
		})
	}
}

// once refuses the first call; nil stands for what the device really does.
func once(s Status) answer {
	return func(n int, _ []wsman.Param) any {
		if n == 0 {
			return returns(s)
		}
		return nil
	}
}

// refuses refuses calls on one block.
func refuses(handle string, s Status) answer {
	return func(_ int, in []wsman.Param) any {
		if in[1].Value == handle {
			return returns(s)
		}
		return nil
	}
}

// pieces reads at most so many bytes at a time.
func pieces(most int) answer {
	return func(n int, in []wsman.Param) any {
		return func(read answer) any {
			in[3].Value = formatUint32(uint32(min(most, atoi(in[3].Value))))
			return read(n, in)
		}
	}
}

// partial writes at most so many bytes at a time, and answers s if that is not all.
func partial(most int, s Status) answer {
	return func(n int, in []wsman.Param) any {
		return func(write answer) any {
			part, err := base64.StdEncoding.DecodeString(in[3].Value)
			if err != nil || len(part) <= most {
				return write(n, in)
			}
			in[3].Value = base64.StdEncoding.EncodeToString(part[:most])
			write(n, in)
			return fmt.Sprintf("<BytesWritten>%d</BytesWritten>", most) + returns(s)
		}
	}
}

func TestAnotherApplicationHandleStartsOver(t *testing.T) {
	t.Parallel()
	// In the middle of Load the application is removed, and registering makes another one: the block handles that are
	// known by then may be anybody's.
	device := flash(&flashBlock{blockNames[0], BlockSize, frame(t, 1, record(1))})
	real := device.answers["GetBlockAttributes"]
	device.answers["GetBlockAttributes"] = func(n int, in []wsman.Param) any {
		if n == 0 {
			return returns(StatusApplicationNotRegistered)
		}
		return real(n, in)
	}
	device.answers["GetCurrentApplicationHandle"] = func(n int, _ []wsman.Param) any {
		return fmt.Sprintf("<ApplicationHandle>%d</ApplicationHandle>", 77+n) + returns(0)
	}
	wantLoad(t, device.store(t), record(1))
	var lists []string
	for _, call := range device.made() {
		if _, args, ok := strings.Cut(call, ".GetAllocatedBlocks("); ok {
			lists = append(lists, args)
		}
	}
	if len(lists) != 2 || !strings.HasSuffix(lists[0], "=77)") || strings.HasSuffix(lists[1], "=77)") {
		t.Errorf("GetAllocatedBlocks of %q", lists)
	}
}

func TestSaveWithoutRoomWritesNothing(t *testing.T) {
	t.Parallel()
	for _, status := range []Status{StatusNotEnoughStorage, StatusMaxLimitReached} {
		// Only one block is to be had: a record in it could not be replaced without a moment of no record at all.
		device := flash()
		allocate := device.answers["AllocateBlock"]
		device.answers["AllocateBlock"] = func(n int, in []wsman.Param) any {
			if n > 0 {
				return returns(status)
			}
			return allocate(n, in)
		}
		err := device.store(t).Save(t.Context(), record(1))
		wantOnly(t, err, hostid.ErrNotInitialized)
		if !errors.Is(err, status) || !strings.Contains(err.Error(), `no room for block "host ID 1" of 4096 bytes`) {
			t.Errorf("%v", err)
		}
		if got := device.methods("WriteBlock"); len(got) != 0 {
			t.Errorf("%d writes", len(got))
		}
	}
}

// The record stands in a small block that is not of our making. Of the two that are then allocated, the first comes with a
// newer record and the second is refused: there is no block to write to.
func TestSaveWithoutRoomBesideABlockWithOldContent(t *testing.T) {
	t.Parallel()
	small := &flashBlock{blockNames[0], 512, frame(t, 5, record(1))}
	device := flash(small)
	allocate := device.answers["AllocateBlock"]
	device.answers["AllocateBlock"] = func(n int, in []wsman.Param) any {
		if n > 0 {
			return returns(StatusNotEnoughStorage)
		}
		return allocate(n, in)
	}
	read := device.answers["ReadBlock"]
	device.answers["ReadBlock"] = func(n int, in []wsman.Param) any {
		if in[1].Value == "2" {
			b := flashBlock{blockNames[0], BlockSize, frame(t, 40, record(4))}
			return data(b.at(atoi(in[2].Value), atoi(in[3].Value)))
		}
		return read(n, in)
	}
	err := device.store(t).Save(t.Context(), record(1))
	wantOnly(t, err, hostid.ErrNotInitialized)
	if got := device.methods("WriteBlock"); len(got) != 0 {
		t.Errorf("%d writes", len(got))
	}
}

func TestABadSecondCopyNeverFailsASave(t *testing.T) {
	t.Parallel()
	damaged := frame(t, 1, record(1))
	damaged[30] ^= 1
	device := flash(&flashBlock{blockNames[0], BlockSize, damaged}, &flashBlock{blockNames[1], BlockSize, frame(t, 2, record(2))})
	device.answers["WriteBlock"] = says(returns(StatusFlashWriteLimitExceeded))
	s := device.store(t)
	for range 3 {
		if err := s.Save(t.Context(), record(2)); err != nil {
			t.Fatal(err)
		}
	}
	if got := device.methods("WriteBlock"); len(got) != 1 {
		t.Errorf("a refused repair was tried %d times, want once", len(got))
	}
	if err := s.Save(t.Context(), record(3)); !errors.Is(err, StatusFlashWriteLimitExceeded) {
		t.Errorf("a Save that cannot write: %v", err)
	}
}

func TestAShorterRecordBlanksTheLongerOne(t *testing.T) {
	t.Parallel()
	long, short := record(hostid.NumFacts-1), record(hostid.NumFacts)
	blocks := []*flashBlock{{blockNames[0], BlockSize, frame(t, 1, long)}, {blockNames[1], BlockSize, frame(t, 2, long)}}
	if len(frame(t, 3, short)) >= len(blocks[0].data) {
		t.Fatal("the second record is not shorter")
	}
	device := flash(blocks...)
	if err := device.store(t).Save(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	want := hostid.PadFrame(frame(t, 3, short), len(blocks[1].data))
	if !bytes.Equal(blocks[0].data, want) {
		t.Errorf("the block holds %x, want %x", blocks[0].data, want)
	}
	if got := device.methods("WriteBlock"); len(got) != 1 {
		t.Errorf("%d writes", len(got))
	}
}

func TestSaveKeepsNoMarksOfTheFolder(t *testing.T) {
	t.Parallel()
	device := flash()
	r := record(1)
	r.Local = hostid.Local{Fresh: true, Provisional: true, Origin: hostid.Generated}
	r.Facts[hostid.DiskSerial] = hostid.DigestOf(r.HostID, hostid.DiskSerial, "disk")
	if err := device.store(t).Save(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := device.store(t).Load(t.Context())
	if err != nil || !got.Equal(record(1)) {
		t.Errorf("Load gives %+v, %v", got, err)
	}
}

func TestSaveRefusesAnImpossibleRecordBeforeAnyCall(t *testing.T) {
	t.Parallel()
	device := flash()
	if err := device.store(t).Save(t.Context(), hostid.Record{}); err == nil {
		t.Error("the zero record was saved")
	}
	if got := device.made(); len(got) != 0 {
		t.Errorf("calls %q", got)
	}
}

func TestStoreWithAnImpossibleEnterprise(t *testing.T) {
	t.Parallel()
	device := flash()
	_, err := NewStore(device.client(t), "").Load(t.Context())
	wantOnly(t, err, hostid.ErrNotInitialized)
	if got := device.made(); len(got) != 0 {
		t.Errorf("calls %q", got)
	}
}

func TestNothingListens(t *testing.T) {
	t.Parallel()
	c := newClient(t, "http://127.0.0.1:1", "admin", "P@ssw0rd!")
	_, err := NewStore(c, DefaultEnterprise).Load(t.Context())
	wantOnly(t, err, hostid.ErrUnavailable)
	if !strings.Contains(err.Error(), "nothing answers for AMT (is LMS running?)") {
		t.Errorf("%v", err)
	}
	if _, err := Initialize(t.Context(), c, DefaultEnterprise); err == nil {
		t.Error("Initialize succeeds")
	}
}

func TestRemoveBlanksBeforeItDeallocates(t *testing.T) {
	t.Parallel()
	blocks := []*flashBlock{{blockNames[0], BlockSize, frame(t, 1, record(1))}, {"other", BlockSize, []byte("x")}, {blockNames[1], BlockSize, frame(t, 2, record(2))}}
	device := flash(blocks...)
	s := device.store(t)
	if err := s.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := device.methods("WriteBlock", "DeallocateBlock", "RemoveApplication", "UnregisterApplication")
	if diff := cmp.Diff([]string{"WriteBlock", "DeallocateBlock", "WriteBlock", "DeallocateBlock", "RemoveApplication"}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for _, i := range []int{0, 2} {
		if len(bytes.Trim(blocks[i].data, "\xff")) != 0 {
			t.Errorf("block %d still holds %x", i, blocks[i].data)
		}
	}
	if string(blocks[1].data) != "x" {
		t.Error("the block of another name was written to")
	}
	before := len(device.made())
	s.Load(t.Context())
	if next := device.made()[before]; !strings.Contains(next, "RegisterApplication(") {
		t.Errorf("after Remove the next call is %s: the session is gone", next)
	}

	device = flash(&flashBlock{blockNames[0], BlockSize, frame(t, 1, record(1))})
	device.answers["WriteBlock"] = says(returns(StatusFlashWriteLimitExceeded))
	err := device.store(t).Remove(t.Context())
	wantOnly(t, err, hostid.ErrUnavailable)
	if !strings.Contains(err.Error(), `removed, but "host ID 0" could not be overwritten first`) {
		t.Errorf("%v", err)
	}
	if got := device.methods("DeallocateBlock", "RemoveApplication"); len(got) != 2 {
		t.Errorf("calls %q", got)
	}
}

func TestCloseWithoutAnythingToClose(t *testing.T) {
	t.Parallel()
	device := flash()
	if err := device.store(t).Close(t.Context()); err != nil || len(device.made()) != 0 {
		t.Errorf("%v, calls %q", err, device.made())
	}
	device.answers["UnregisterApplication"] = says(returns(StatusApplicationNotRegistered))
	s := device.store(t)
	s.Load(t.Context())
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("a session that ended already: %v", err)
	}
}

func TestCancelledContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := flash().store(t).Load(ctx)
	wantOnly(t, err, hostid.ErrUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// newerFrame is a whole frame of a format version that does not exist yet (docs/protocol/record.md).
func newerFrame(sequence uint64) []byte {
	b := []byte("SHID\x00\x02\x00\x00")
	b = binary.BigEndian.AppendUint64(b, sequence)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}
