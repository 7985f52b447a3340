package amtsim

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Snapshot is a device as it stands: what the firmware keeps, and what was done to it since the process started.
type Snapshot struct {
	Device         int    `json:"device"`
	HostName       string `json:"host_name"`
	PlatformGUID   string `json:"platform_guid"`
	MAC            string `json:"mac"`
	SystemSerial   string `json:"system_serial"`
	BoardSerial    string `json:"board_serial"`
	Release        string `json:"release"`
	Mode           string `json:"mode"`
	Provisioned    bool   `json:"provisioned"`
	DigestRealm    string `json:"digest_realm"`
	NetworkURL     string `json:"network_url,omitempty"`
	LocalURL       string `json:"local_url,omitempty"`
	NetworkTLSURL  string `json:"network_tls_url,omitempty"`
	LocalTLSURL    string `json:"local_tls_url,omitempty"`
	TLSPin         string `json:"tls_pin,omitempty"` // where there is a TLS listener
	TLSCertificate string `json:"tls_certificate,omitempty"`

	Calls        map[string]uint64 `json:"calls"`         // let in, per method; "Get CLASS", "Enumerate CLASS", "Pull CLASS", "Identify"
	BlockWrites  uint64            `json:"block_writes"`  // WriteBlock calls that changed flash
	BytesWritten uint64            `json:"bytes_written"` // by them
	FailedLogons uint64            `json:"failed_logons"` // wrong or locked-out credentials; a first request without any is none
	Connections  uint64            `json:"connections"`   // accepted
	Open         int               `json:"open_connections"`

	Enterprises  []SnapshotEnterprise  `json:"enterprises"`
	Entries      []SnapshotEntry       `json:"entries"`
	Applications []SnapshotApplication `json:"applications"`
	Blocks       []SnapshotBlock       `json:"blocks"`
	Users        []User                `json:"users"`
	WritesLeft   uint32                `json:"writes_left"` // of the wear-out budget
	Faults       Faults                `json:"faults"`
}

// SnapshotEnterprise is an EACL entry.
type SnapshotEnterprise struct {
	Handle uint32 `json:"handle"`
	Name   string `json:"name"`
}

// SnapshotEntry is an FPACL entry, or a NACL entry where Partner is false.
type SnapshotEntry struct {
	Handle              uint32 `json:"handle"`
	Vendor              string `json:"vendor"`
	Application         string `json:"application"`
	Partner             bool   `json:"partner"`
	TotalAllocationSize uint32 `json:"total_allocation_size"`
}

// SnapshotApplication is an ARL entry.
type SnapshotApplication struct {
	Handle        uint32 `json:"handle"`
	UUID          string `json:"uuid"` // 32 upper-case hex digits
	Vendor        string `json:"vendor"`
	Application   string `json:"application"`
	Enterprise    string `json:"enterprise"`
	Interface     string `json:"interface"` // "network" or "local"
	ActiveSession bool   `json:"active_session"`
	Allocated     uint32 `json:"allocated"` // bytes
}

// SnapshotBlock is a block with its content; bytes never written are 0xFF.
type SnapshotBlock struct {
	Handle   uint32          `json:"handle"`
	Owner    uint32          `json:"owner"`
	Name     string          `json:"name"`
	Hidden   bool            `json:"hidden"`
	Size     uint32          `json:"size"`
	Area     string          `json:"area"` // "partner" or "non-partner"
	LockedBy uint32          `json:"locked_by,omitempty"`
	Written  bool            `json:"written"`
	Groups   []SnapshotGroup `json:"groups,omitempty"`
	Data     []byte          `json:"data"`
}

// SnapshotGroup is a permissions group.
type SnapshotGroup struct {
	Handle      uint32   `json:"handle"`
	Name        string   `json:"name"`
	Permissions uint32   `json:"permissions"`
	Members     []uint32 `json:"members"`
}

// Snapshot tells the state of the device.
func (d *Device) Snapshot() Snapshot {
	s := Snapshot{NetworkURL: d.NetworkURL(), LocalURL: d.LocalURL(), NetworkTLSURL: d.NetworkTLSURL(), LocalTLSURL: d.LocalTLSURL()}
	if s.NetworkTLSURL != "" || s.LocalTLSURL != "" {
		s.TLSPin, s.TLSCertificate = d.SPKIPin(), string(d.CertificatePEM())
	}
	d.connsMu.Lock()
	s.Open = len(d.conns)
	d.connsMu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &d.mem.Storage
	f.expire(d.now())
	s.Device, s.HostName, s.PlatformGUID, s.MAC = d.options.Index, d.id.host, d.id.platformGUID(), d.id.mac
	s.SystemSerial, s.BoardSerial = d.id.systemSerial, d.id.boardSerial
	s.Release, s.Mode, s.Provisioned, s.DigestRealm = d.options.Release, d.mode(), d.provisioned(), d.mem.Realm
	s.Calls = map[string]uint64{}
	for name, n := range d.count.calls {
		s.Calls[name] = n
	}
	s.BlockWrites, s.BytesWritten = d.count.blockWrites, d.count.bytesWritten
	s.FailedLogons, s.Connections = d.count.failedLogons, d.count.connections
	s.WritesLeft, s.Faults = d.writesLeft(), d.faults
	s.Enterprises, s.Entries = []SnapshotEnterprise{}, []SnapshotEntry{}
	s.Applications, s.Blocks, s.Users = []SnapshotApplication{}, []SnapshotBlock{}, []User{}
	for _, e := range f.Enterprises {
		s.Enterprises = append(s.Enterprises, SnapshotEnterprise{e.Handle, e.Name})
	}
	for _, a := range f.Allocations {
		s.Entries = append(s.Entries, SnapshotEntry{a.Handle, a.Vendor, a.Application, a.Partner, a.Total})
	}
	for _, a := range f.Applications {
		from := networkSide
		if a.Local {
			from = localSide
		}
		s.Applications = append(s.Applications, SnapshotApplication{a.Handle, strings.ToUpper(hex.EncodeToString(a.UUID[:])),
			a.Vendor, a.Name, a.Enterprise, from.String(), a.session != "", f.ownedBy(a.Handle)})
	}
	for _, b := range f.Blocks {
		o := SnapshotBlock{Handle: b.Handle, Owner: b.Owner, Name: b.Name, Hidden: b.Hidden, Size: b.Size, Area: "partner",
			LockedBy: b.lockedBy, Written: b.Data != nil, Data: make([]byte, b.Size)}
		if b.NonPartner {
			o.Area = "non-partner"
		}
		for at := uint32(0); at < b.Size; at += allocationUnit {
			copy(o.Data[at:], b.read(at, min(allocationUnit, b.Size-at)))
		}
		for _, g := range b.Groups {
			o.Groups = append(o.Groups, SnapshotGroup{g.Handle, g.Name, g.Permissions, append([]uint32{}, g.Members...)})
		}
		s.Blocks = append(s.Blocks, o)
	}
	for _, u := range d.mem.Users {
		s.Users = append(s.Users, User{Handle: u.Handle, Name: u.Name, Access: u.Access, Realms: append([]uint32{}, u.Realms...)})
	}
	return s
}

// Control is the HTTP API that tests steer a fleet with; docs/protocol/amtsim.md describes it. It asks for no
// credentials: serve it on a loopback address only.
func (f *Fleet) Control() http.Handler {
	mux := http.NewServeMux()
	on := func(pattern string, do func(d *Device, r *http.Request, body []byte) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			n, err := strconv.Atoi(r.PathValue("n"))
			if err != nil || n < 1 || n > len(f.Devices) {
				controlError(w, http.StatusNotFound, fmt.Errorf("there is no device %q: they are 1 to %d", r.PathValue("n"), len(f.Devices)))
				return
			}
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
			if err != nil {
				controlError(w, http.StatusRequestEntityTooLarge, err)
				return
			}
			answer, err := do(f.Devices[n-1], r, body)
			if err != nil {
				controlError(w, http.StatusBadRequest, err)
				return
			}
			controlAnswer(w, answer)
		})
	}
	snapshot := func(d *Device, err error) (any, error) { return d.Snapshot(), err }

	mux.HandleFunc("GET /devices", func(w http.ResponseWriter, r *http.Request) {
		type line struct {
			Device       int    `json:"device"`
			HostName     string `json:"host_name"`
			PlatformGUID string `json:"platform_guid"`
			NetworkURL   string `json:"network_url,omitempty"`
			LocalURL     string `json:"local_url,omitempty"`
		}
		all := []line{}
		for _, d := range f.Devices {
			all = append(all, line{d.options.Index, d.id.host, d.id.platformGUID(), d.NetworkURL(), d.LocalURL()})
		}
		controlAnswer(w, all)
	})
	on("GET /devices/{n}", func(d *Device, _ *http.Request, _ []byte) (any, error) { return snapshot(d, nil) })
	on("GET /devices/{n}/faults", func(d *Device, _ *http.Request, _ []byte) (any, error) { return d.Faults(), nil })
	on("PUT /devices/{n}/faults", func(d *Device, _ *http.Request, body []byte) (any, error) {
		faults, err := ParseFaults(body)
		if err == nil {
			err = d.SetFaults(faults)
		}
		return d.Faults(), err
	})
	on("POST /devices/{n}/restart", func(d *Device, _ *http.Request, _ []byte) (any, error) {
		d.Restart()
		return snapshot(d, nil)
	})
	on("POST /devices/{n}/unprovision", func(d *Device, _ *http.Request, _ []byte) (any, error) {
		return snapshot(d, d.Unprovision())
	})
	on("POST /devices/{n}/provision", func(d *Device, r *http.Request, _ []byte) (any, error) {
		return snapshot(d, d.Provision(r.URL.Query().Get("mode")))
	})
	on("POST /devices/{n}/users", func(d *Device, _ *http.Request, body []byte) (any, error) {
		var u User
		if err := strictJSON(body, &u); err != nil {
			return nil, err
		}
		return snapshot(d, d.AddUser(u))
	})
	on("DELETE /devices/{n}/users/{name}", func(d *Device, r *http.Request, _ []byte) (any, error) {
		return snapshot(d, d.RemoveUser(r.PathValue("name")))
	})
	on("PUT /devices/{n}/blocks/{handle}", func(d *Device, r *http.Request, body []byte) (any, error) {
		handle, err1 := strconv.ParseUint(r.PathValue("handle"), 10, 32)
		offset, err2 := strconv.ParseUint(r.URL.Query().Get("offset"), 10, 32)
		if r.URL.Query().Get("offset") == "" {
			offset, err2 = 0, nil
		}
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return snapshot(d, d.WriteMemory(uint32(handle), uint32(offset), body))
	})
	return mux
}

func controlAnswer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v)
}

func controlError(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

// controlTimeout bounds a control request's head.
const controlTimeout = 10 * time.Second
