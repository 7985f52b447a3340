package amtinit

import (
	"slices"
	"strconv"
	"strings"

	"samehost/internal/amt"
)

// Warning is something about a target that is no failure of it.
type Warning struct {
	ID            string // message ID, SHAM2nnn-W
	Cause, Remedy Text
}

// Warnings lists every warning, in the order of the message IDs.
func Warnings() []Warning { return []Warning{openFirmware, perhapsOpenFirmware} }

var updateFirmware = Text{"Update the firmware of this PC to a version that its maker names as fixed for INTEL-SA-00075. Until then keep ports 16992 and 16993 from all but the manager and the relay systems.",
	"このPCのファームウェアを、PCのメーカがINTEL-SA-00075の対策済みとして公開しているバージョンに更新してください。更新するまでは、ポート16992と16993への接続をマネージャと中継システムだけに制限してください。"}

var (
	openFirmware = Warning{"SHAM2001-W",
		Text{"By its version and build number, the firmware of this PC is open to CVE-2017-5689 (INTEL-SA-00075): anyone who reaches its AMT can log on without the password.",
			"ファームウェアのバージョンとビルド番号から、このPCにはCVE-2017-5689(INTEL-SA-00075)の脆弱性があります。AMTに接続できるすべての人が、パスワードなしでログオンできます。"},
		updateFirmware}
	perhapsOpenFirmware = Warning{"SHAM2002-W",
		Text{"The firmware of this PC may be open to CVE-2017-5689 (INTEL-SA-00075): its version had the fault before it was corrected, and the build number that would tell was not asked for or not told.",
			"このPCのファームウェアには、CVE-2017-5689(INTEL-SA-00075)の脆弱性があるおそれがあります。修正前に脆弱性があったバージョンであり、判定に必要なビルド番号を取得していません。"},
		Text{"Run the command with --dry-run, which asks for the build number: 3000 and above is fixed. Where it is not told, look it up in the PC's firmware menu (MEBx), and update the firmware if it is lower.",
			"--dry-runを指定してコマンドを実行すると、ビルド番号を取得します。3000以上は対策済みです。取得できない場合はPCのファームウェアのメニュー(MEBx)で確認し、3000未満のときはファームウェアを更新してください。"}}
)

// Which firmware is open to CVE-2017-5689 (Intel's advisory INTEL-SA-00075, and the CVE's record): manageability firmware
// from 6.0 to 11.6. Fixed firmware has a build number of 3000 and above, by Intel's detection guide, whatever its version:
// makers have fixed older versions of a line, too.
const fixedBuild = 3000

var firstOpen, firstClosed = []uint64{6, 0}, []uint64{11, 7}

// fixedVersions are the first versions that Intel lists as fixed. Where the build number is unknown, a version is taken as
// fixed from these on within its line, and as perhaps open before; 10.0 for one has fixed builds of older versions.
var fixedVersions = [][]uint64{
	{6, 2, 61}, {7, 1, 91}, {8, 1, 71}, {9, 1, 41}, {9, 5, 61}, {10, 0, 55}, {11, 0, 25}, {11, 6, 27}, // builds 3535 3272 3608 3024 3012 3000 3001 3264
}

// warningsOf are the warnings about a device.
func warningsOf(about amt.About) []Warning {
	v := numbers(about.Version)
	if len(v) < 2 || slices.Compare(v[:2], firstOpen) < 0 || slices.Compare(v[:2], firstClosed) >= 0 {
		return nil
	}
	build := about.Build
	if build == "" && len(v) > 3 { // a version that has it in itself
		build = strconv.FormatUint(v[3], 10)
	}
	if b, err := strconv.ParseUint(build, 10, 32); err == nil {
		if b >= fixedBuild {
			return nil
		}
		return []Warning{openFirmware}
	}
	for _, fixed := range fixedVersions {
		if slices.Equal(v[:2], fixed[:2]) && slices.Compare(v, fixed) >= 0 {
			return nil
		}
	}
	return []Warning{perhapsOpenFirmware}
}

// numbers are the parts of a version; nil if it is none.
func numbers(version string) (parts []uint64) {
	for p := range strings.SplitSeq(version, ".") {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return nil
		}
		parts = append(parts, n)
	}
	return parts
}
