// Story plays what samehost is for, with the real programs as separate processes, and says each step in a plain
// sentence. Every sentence is checked before it is printed.
//
//	go run ./test/story -bin bin
//
// With ONCE=1 in the environment it ends after the story: exit code 0 only if every step held. Otherwise manager and
// PCs stay up until Ctrl-C, to be looked at.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"samehost/test/play"
)

const pcs = 20

func main() {
	bin := flag.String("bin", "bin", "folder of the programs")
	flag.Parse()
	os.Exit(run(*bin))
}

func run(bin string) (code int) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)

	dir, err := os.MkdirTemp("", "samehost-story-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if bin, err = filepath.Abs(bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stage := &play.Stage{Dir: dir, Bin: bin, Net: 1}
	defer func() {
		if err := stage.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "at the end:", err)
			code = 1
		}
	}()

	end := make(chan error, 1)
	s := &story{stage: stage}
	go func() { end <- s.tell() }()
	select {
	case err = <-end:
	case <-interrupted:
		fmt.Println("\nInterrupted.")
		return 1
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nThe story stops here: %v\n", err)
		return 1
	}
	fmt.Printf("\nThe story held: %d steps checked.\n", s.steps)
	if os.Getenv("ONCE") == "1" {
		return 0
	}
	fmt.Printf(`
Everything is still up. In another terminal:
  %[1]s/samehost-manager assets  --config %[2]s
  %[1]s/samehost-manager history --config %[2]s
  %[1]s/samehost-manager relays  --config %[2]s
  %[1]s/samehost-client  status  --config %[3]s
Take a disk away yourself (rm -r %[4]s), then:
  %[1]s/samehost-client  install --no-service --config %[3]s
Ctrl-C ends it all and removes %[5]s.
`, bin, s.manager.Config, s.pcs[0].Config, s.pcs[0].DataDir, dir)
	<-interrupted
	fmt.Println()
	return 0
}

type story struct {
	stage    *play.Stage
	firmware *play.Firmware
	manager  *play.Manager
	relay    *play.Relay
	pcs      []*play.PC
	steps    int
}

// say prints a step that has just been checked.
func (s *story) say(format string, args ...any) {
	s.steps++
	fmt.Printf("%2d. %s\n", s.steps, fmt.Sprintf(format, args...))
}

func (s *story) tell() (err error) {
	if s.firmware, err = s.stage.StartFirmware(pcs); err != nil {
		return err
	}
	s.say("%d PCs with Intel AMT stand in the company, the first at %s.", pcs, s.stage.NetworkAddress(1))
	if s.manager, err = s.stage.InitManager(); err != nil {
		return err
	}
	if err = s.manager.Serve(); err != nil {
		return err
	}
	s.say("A manager with an embedded database serves https://%s.", s.manager.Listen)
	if s.relay, err = s.manager.StartRelay(); err != nil {
		return err
	}
	s.say("A relay has enrolled with it, and takes check-ins for every other PC at https://%s.", s.relay.Listen)
	for i := range pcs {
		pc, err := s.manager.PC(i + 1)
		if err != nil {
			return err
		}
		if pc.I%2 == 0 {
			pc.HigherSystem = s.relay.Listen
			if err := pc.Configure(); err != nil {
				return err
			}
		}
		s.pcs = append(s.pcs, pc)
	}
	first, last, third := s.pcs[0], s.pcs[pcs-1], s.pcs[2]

	// Installed before its area is initialised: nothing can be stored yet.
	lastID, err := last.Install()
	if err != nil {
		return err
	}
	if lastID.Origin != "generated" && lastID.Origin != "provisional" || lastID.Store("amt").State != "not-initialized" {
		return fmt.Errorf("PC %d was installed before its area was initialised, and says %+v", last.I, lastID)
	}
	s.say("PC %d gets its client early: host ID %s, and nowhere to keep it yet.", last.I, lastID.HostID)

	if err := s.initialize("/f", s.firmware.SystemFile); err != nil {
		return err
	}
	s.say("One command, dcmamtin /f, initialises the host ID area in all %d of them.", pcs)
	if err := s.initialize("/I", s.stage.NetworkAddress(1)); err != nil {
		return err
	}
	s.say("Doing it again on one, dcmamtin /I %s, does no harm.", s.stage.NetworkAddress(1))

	ids := map[string]int{lastID.HostID: last.I}
	hostIDs := make([]string, pcs)
	hostIDs[last.I-1] = lastID.HostID
	for _, pc := range s.pcs[:pcs-1] {
		id, err := pc.Install()
		if err != nil {
			return err
		}
		if id.Origin != "generated" || id.Store("amt").State != "stored" {
			return fmt.Errorf("PC %d was installed after its area was initialised, and says %+v", pc.I, id)
		}
		if other, taken := ids[id.HostID]; taken {
			return fmt.Errorf("PCs %d and %d have one host ID", other, pc.I)
		}
		ids[id.HostID] = pc.I
		hostIDs[pc.I-1] = id.HostID
	}
	s.say("The other %d get their clients: each generates its host ID and stores it in AMT.", pcs-1)
	if _, err := last.CheckIn(); err != nil {
		return err
	}
	if err := s.expect(last, lastID.HostID, ""); err != nil {
		return err
	}
	s.say("PC %d stores its host ID when it next talks to the manager.", last.I)
	if err := s.assets(pcs + 1); err != nil {
		return err
	}
	s.say("The manager knows %d assets: the PCs and the relay.", pcs+1)

	// The disk failure that all this is about, on either kind of PC.
	for _, pc := range []*play.PC{first, last} {
		if err := pc.DiskFailure(); err != nil {
			return err
		}
		id, err := pc.Install()
		if err != nil {
			return err
		}
		if id.HostID != hostIDs[pc.I-1] || id.Origin != "restored" {
			return fmt.Errorf("PC %d had host ID %s and was reinstalled as %+v", pc.I, hostIDs[pc.I-1], id)
		}
		s.say("PC %d loses its disk and is reinstalled: host ID %s is restored from AMT.", pc.I, id.HostID)
	}
	if err := s.assets(pcs + 1); err != nil {
		return err
	}
	s.say("The manager still knows %d assets, each under its old host ID.", pcs+1)

	// The manual's own exception: the restore fails, a new ID is generated, and the old one overwritten later.
	if err := s.firmware.Faults(third.I, `{"password": "Another1!"}`); err != nil {
		return err
	}
	if err := third.DiskFailure(); err != nil {
		return err
	}
	id, err := third.Install()
	if err != nil {
		return err
	}
	if id.HostID == hostIDs[third.I-1] || id.Origin != "provisional" || id.Store("amt").State != "unavailable" {
		return fmt.Errorf("PC %d could not read its AMT, and says %+v", third.I, id)
	}
	s.say("PC %d loses its disk while AMT refuses the log-on: a new host ID, %s.", third.I, id.HostID)
	if err := s.firmware.Faults(third.I, `{}`); err != nil {
		return err
	}
	service, err := third.Serve()
	if err != nil {
		return err
	}
	if err := s.manager.UntilAlias(hostIDs[third.I-1], id.HostID); err != nil {
		return fmt.Errorf("%w\nthe client said:\n%s", err, service.Output())
	}
	if err := service.Stop(); err != nil {
		return err
	}
	if err := s.expect(third, id.HostID, ""); err != nil {
		return err
	}
	s.say("AMT lets it in again, the service starts: the old host ID is overwritten, and the manager is told which.")
	if err := s.assets(pcs + 1); err != nil {
		return err
	}
	s.say("The manager proves the two host IDs to be one PC: still %d assets, and the old ID leads to it.", pcs+1)
	return nil
}

func (s *story) initialize(args ...string) error {
	r, err := s.manager.Dcmamtin(args...)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("dcmamtin %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return nil
}

// expect checks that the PC has that host ID and that its AMT holds it.
func (s *story) expect(pc *play.PC, hostID, origin string) error {
	id, err := pc.Status()
	if err != nil {
		return err
	}
	if id.HostID != hostID || id.Store("amt").State != "stored" || origin != "" && id.Origin != origin {
		return fmt.Errorf("PC %d should hold %s in AMT, and says %+v", pc.I, hostID, id)
	}
	return nil
}

func (s *story) assets(want int) error {
	list, err := s.manager.Assets()
	if err != nil {
		return err
	}
	if len(list) != want {
		return fmt.Errorf("the manager lists %d assets, not %d: %+v", len(list), want, list)
	}
	return nil
}
