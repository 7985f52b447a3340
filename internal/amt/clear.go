package amt

import (
	"context"
	"fmt"

	"samehost/internal/wsman"
)

// Cleared is what Clear found and did.
type Cleared struct {
	About   About
	Removed int      // registrations of our application that were removed: one, where the device keeps to its own rules
	Left    []string // other enterprises, made printable, under which an application of our names is registered
}

// Clear removes the client's application, with its blocks and the host ID in them, from a device that will not have it any more.
// It uses the administration class only. Whatever is not ours by vendor, application, enterprise and caller UUID stays, and
// so do EACL, FPACL and everything else; where nothing of ours is registered, nothing is done. Doing it again is harmless.
//
// sure is asked before anything is changed, with what the device says of itself; with its error nothing is. It is asked once.
// A client that still runs there registers anew: end it first.
//
// With an error the Cleared says what was found and done until then; a removal whose answer is missing included. Reasons
// are those of Initialize, and wsman.ErrBadReply if the device says that it removed what it still shows.
func Clear(ctx context.Context, c *wsman.Client, enterprise string, sure func(About) error) (Cleared, error) {
	done := Cleared{About: unknown}
	if err := checkEnterprise(enterprise); err != nil {
		return done, err
	}
	d := &device{c: c}
	// The class that the work is done with comes first, for the same reasons as in survey.
	handles, err := d.registered(ctx)
	if err != nil && !answered(err) {
		return done, err
	}
	describeErr := d.describe(ctx, &done.About, askVersion, askPlatform, askSetup)
	if err == nil {
		err = describeErr
	}
	if err := done.About.judge(d.c.OverTLS(), err); err != nil {
		return done, err
	}
	if err := sure(done.About); err != nil {
		return done, err
	}
	// What was removed is read back; a second round serves a client that registered in between.
	for round := 0; ; round++ {
		ours := 0
		done.Left = nil
		for _, h := range handles {
			// Read and remove follow each other: handles are not used twice, but a list grows old.
			is, err := d.application(ctx, h)
			if isStatus(err, StatusApplicationDoesNotExist, StatusInvalidHandle, StatusNotFound) {
				continue
			}
			if err != nil {
				return done, err
			}
			if !isOurs(is.Instance, enterprise) {
				vendor, _ := is.Value("VendorName")
				name, _ := is.Value("ApplicationName")
				if other, _ := is.Value("EnterpriseName"); vendor == Vendor && name == Application {
					done.Left = append(done.Left, printable(other))
				}
				continue
			}
			if ours++; round == 2 {
				return done, fmt.Errorf("reading back: %w: the device says that it removed our application, and still shows it", wsman.ErrBadReply)
			}
			_, err = d.invoke(ctx, adminClass, "AdminRemoveApplication", wsman.Param{Name: "Handle", Value: formatUint32(h)})
			gone := isStatus(err, StatusApplicationDoesNotExist, StatusInvalidHandle, StatusNotFound)
			if round == 0 && mayBeDone(err) {
				done.Removed++
			}
			if err != nil && !gone {
				return done, err
			}
		}
		if ours == 0 {
			return done, nil
		}
		if handles, err = d.registered(ctx); err != nil {
			return done, fmt.Errorf("reading back: %w", err)
		}
	}
}

// registered lists the handles of all registered applications.
func (d *device) registered(ctx context.Context) ([]uint32, error) {
	out, err := d.invoke(ctx, adminClass, "AdminGetRegisteredApplications")
	if err != nil {
		return nil, err
	}
	return out.handles("ApplicationHandles")
}

func (d *device) application(ctx context.Context, handle uint32) (output, error) {
	return d.invoke(ctx, adminClass, "AdminGetApplicationAttributes", wsman.Param{Name: "Handle", Value: formatUint32(handle)})
}
