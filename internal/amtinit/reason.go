package amtinit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"unicode"

	"samehost/internal/amt"
	"samehost/internal/wsman"
)

// Lang is a language that the command speaks.
type Lang string

// The languages. Every message exists in both.
const (
	English  Lang = "en"
	Japanese Lang = "ja"
)

// Text is one message in every language.
type Text struct{ EN, JA string }

// In is the message in that language, English where the language is unknown.
func (t Text) In(l Lang) string {
	if l == Japanese {
		return t.JA
	}
	return t.EN
}

// Code names a reason for scripts. Codes and message IDs never change their meaning.
type Code string

// Why a target was not initialized.
const (
	Unresolvable     Code = "unresolvable-name"
	NothingAnswers   Code = "nothing-answers"
	ConnectionBroken Code = "connection-broken"
	TimedOut         Code = "timeout"
	OwnMachine       Code = "own-machine"
	NoTrust          Code = "tls-only-no-trust"
	BadCertificate   Code = "certificate-not-trusted"
	NotTLS           Code = "not-tls"
	TLSRequired      Code = "tls-required"
	LogOnRefused     Code = "log-on-refused"
	LockedOut        Code = "locked-out"
	RealmMissing     Code = "realm-missing"
	NotAMT           Code = "not-amt"
	No3PDS           Code = "no-3pds"
	NotProvisioned   Code = "not-provisioned"
	EnterpriseMode   Code = "enterprise-mode"
	EACLFull         Code = "eacl-full"
	AllocationFull   Code = "allocation-full"
	OutOfStorage     Code = "out-of-storage"
	WornOut          Code = "worn-out"
	Busy             Code = "busy"
	UnexpectedStatus Code = "unexpected-status"
	DeviceFault      Code = "fault"
	LocalResources   Code = "local-resources"
	OtherError       Code = "other-error"
	Interrupted      Code = "interrupted"
	NotTried         Code = "not-tried"
)

// Reason is one row of the table that DCMAMT.LOG, standard output and docs/operations/dcmamtin.*.md share.
type Reason struct {
	Code   Code
	ID     string // message ID, SHAMnnnn-E or -W
	Cause  Text
	Remedy Text
}

// Reasons lists every reason, in the order of the message IDs.
func Reasons() []Reason { return append([]Reason(nil), reasons...) }

// ReasonOf is the row of that code. An unknown code is a mistake in the program and panics.
func ReasonOf(c Code) Reason {
	for _, r := range reasons {
		if r.Code == c {
			return r
		}
	}
	panic("amtinit: no reason " + string(c))
}

var reasons = []Reason{
	{Unresolvable, "SHAM1001-E",
		Text{"The host name cannot be resolved.",
			"ホスト名を解決できません。"},
		Text{"Check the spelling and the name server, or give the IP address with /I or in the file.",
			"ホスト名のつづりとネームサーバの設定を確認してください。IPアドレスを/Iまたはシステム構成情報ファイルで指定することもできます。"}},
	{NothingAnswers, "SHAM1002-E",
		Text{"Nothing answers: not AMT-capable, not set up, or TLS only; or the PC is not on the network.",
			"応答がありません。AMTに対応していない、AMTがセットアップされていない、TLSだけを受け付ける、またはPCがネットワーク上に存在しないおそれがあります。"},
		Text{"Check that the PC has power and a network cable, that AMT is set up in its firmware menu (MEBx), and that no firewall blocks ports 16992 and 16993.",
			"PCの電源とネットワークケーブル、ファームウェアのメニュー(MEBx)でAMTがセットアップされていること、およびファイアウォールがポート16992と16993を遮断していないことを確認してください。"}},
	{ConnectionBroken, "SHAM1003-E",
		Text{"The device or something on the way broke the connection off.",
			"機器または経路上の装置によって接続が切断されました。"},
		Text{"Run the command again. If it stays so, look for a firewall between here and the PC, or restart AMT by taking the PC's power away for a moment.",
			"コマンドを再実行してください。繰り返し発生する場合は、PCとの間のファイアウォールを確認するか、PCの電源をいったん切り離してAMTを再起動してください。"}},
	{TimedOut, "SHAM1004-E",
		Text{"The device answers too slowly: the time for one target ran out.",
			"機器の応答が遅く、1台当たりの制限時間を超えました。"},
		Text{"Run the command again for this PC, or allow more time with --timeout.",
			"このPCに対してコマンドを再実行するか、--timeoutで制限時間を延ばしてください。"}},
	{OwnMachine, "SHAM1005-E",
		Text{"The target is this machine: its own AMT cannot be reached through the network.",
			"実行先がこのコンピュータ自身です。自身のAMTにはネットワーク経由で接続できません。"},
		Text{"Run the command for this PC from another manager or relay system.",
			"このPCに対しては、ほかのマネージャまたは中継システムからコマンドを実行してください。"}},
	{NoTrust, "SHAM1006-E",
		Text{"The device takes TLS only, and no trust is configured.",
			"機器はTLSだけを受け付けますが、証明書を検証するための設定がありません。"},
		Text{"Set tls_ca or tls_pin in the [amt] table of the configuration.",
			"設定ファイルの[amt]にtls_caまたはtls_pinを設定してください。"}},
	{BadCertificate, "SHAM1007-E",
		Text{"The device's TLS certificate is not trusted.",
			"機器のTLS証明書を信頼できません。"},
		Text{"Check tls_ca or tls_pin in the [amt] table, and that the certificate was issued for this host name (with /I: this address) and has not expired. If it changed unexpectedly, find out why before you trust it.",
			"[amt]のtls_caまたはtls_pinの値と、証明書がこのホスト名(/Iの場合はIPアドレス)に対して発行された、有効期限内のものであることを確認してください。予期しない変更の場合は、信頼する前に原因を調査してください。"}},
	{NotTLS, "SHAM1008-E",
		Text{"The device does not speak TLS on this port.",
			"機器はこのポートでTLSを使用していません。"},
		Text{"Set tls = false for this port in the [amt] table, or name the device's TLS port (16993), or use port = \"auto\".",
			"[amt]でこのポートに対してtls = falseを設定するか、機器のTLSポート(16993)を指定するか、port = \"auto\"を設定してください。"}},
	{TLSRequired, "SHAM1009-E",
		Text{"The device speaks TLS on this port.",
			"機器はこのポートでTLSを使用しています。"},
		Text{"Set tls = true with tls_ca or tls_pin in the [amt] table.",
			"[amt]でtls = trueを設定し、tls_caまたはtls_pinを指定してください。"}},
	{LogOnRefused, "SHAM1010-E",
		Text{"The device refuses the AMT management user: user name or password differ from this machine's setup, or the account is locked for a while.",
			"AMT管理ユーザでログオンできません。ユーザ名またはパスワードがこのコンピュータの設定と一致していないか、アカウントが一時的にロックされています。"},
		Text{"Set the same AMT management user on the PC as in the [amt] table here. If every PC refuses, correct user and password here. Wait some minutes before you try again: AMT locks after repeated failures.",
			"PCのAMT管理ユーザを、このコンピュータの[amt]の設定と統一してください。すべてのPCで失敗する場合は、このコンピュータのユーザ名とパスワードを再設定してください。失敗を繰り返すとAMTがロックされるため、数分待ってから再実行してください。"}},
	{LockedOut, "SHAM1011-E",
		Text{"The device let us in before and now refuses the log-on: locked out for a while, or its password was changed meanwhile.",
			"ログオンできていた機器がログオンを拒否しました。一時的にロックされたか、途中でパスワードが変更されました。"},
		Text{"Stop other programs that log on to this PC's AMT with an old password, wait some minutes and run the command again.",
			"古いパスワードでこのPCのAMTにログオンするほかのプログラムを停止し、数分待ってからコマンドを再実行してください。"}},
	{RealmMissing, "SHAM1012-E",
		Text{"The AMT management user may log on, but lacks the right to administer storage (realm Storage Administration).",
			"AMT管理ユーザはログオンできますが、ストレージを管理する権限(Storage Administrationレルム)がありません。"},
		Text{"Give the user the realms Storage Administration and General Info with network access, or use the account admin.",
			"このユーザにStorage AdministrationとGeneral Infoのレルムをネットワークアクセス付きで割り当てるか、adminアカウントを使用してください。"}},
	{NotAMT, "SHAM1013-E",
		Text{"Something answers on this port, but it is not AMT: there is no WS-Management.",
			"このポートで応答したのはAMTではありません。WS-Managementに対応していません。"},
		Text{"Check the address and, if [amt] port is a number, the port.",
			"アドレスを確認してください。[amt]のportに番号を指定している場合は、ポート番号も確認してください。"}},
	{No3PDS, "SHAM1014-E",
		Text{"This AMT firmware has no third-party data storage.",
			"このAMTファームウェアには、サードパーティデータストレージ(3PDS)がありません。"},
		Text{"The host ID of this PC cannot be kept in AMT. Its client keeps it in another store where the PC has one.",
			"このPCのホスト識別子はAMTに保管できません。PCにほかの保管先がある場合、クライアントはそこに保管します。"}},
	{NotProvisioned, "SHAM1015-E",
		Text{"AMT on this PC is not set up (not provisioned).",
			"このPCのAMTはセットアップ(Provision)されていません。"},
		Text{"Set AMT up in the firmware menu (MEBx) or with your setup tool, with the AMT management user, and run the command again.",
			"ファームウェアのメニュー(MEBx)またはセットアップツールでAMTをセットアップし、AMT管理ユーザを設定してから、コマンドを再実行してください。"}},
	{EnterpriseMode, "SHAM1016-E",
		Text{"AMT before 6.0 is set up in Enterprise mode: the provisioning model is not Small Business.",
			"AMT 6.0より前のPCがEnterpriseモードでセットアップされています。AMTのProvisionモデルに「Small Business」が指定されていません。"},
		Text{"Set the provisioning model of this PC to Small Business, or configure tls_ca or tls_pin in the [amt] table and use TLS.",
			"このPCのAMTのProvisionモデルに「Small Business」を指定するか、[amt]にtls_caまたはtls_pinを設定してTLSを使用してください。"}},
	{EACLFull, "SHAM1017-E",
		Text{"All enterprise places of this device (EACL) are taken by others.",
			"この機器のエンタープライズの登録枠(EACL)は、すべてほかの製品が使用しています。"},
		Text{"Remove an enterprise that is no longer used with the tool that made it, or name one of them as enterprise in the [amt] table here and on the client.",
			"使用していないエンタープライズを、登録したツールで削除してください。または、登録されているエンタープライズの一つを、このコンピュータとクライアントの[amt]のenterpriseに指定してください。"}},
	{AllocationFull, "SHAM1018-E",
		Text{"All allocation entries of this device (FPACL) are taken, and the non-partner area is too small for a host ID.",
			"この機器の割り当てエントリ(FPACL)はすべて使用されており、非パートナ用の領域もホスト識別子の保管に必要な大きさがありません。"},
		Text{"Remove an allocation entry that is no longer used with the tool that made it, or enlarge the non-partner area.",
			"使用していない割り当てエントリを、登録したツールで削除するか、非パートナ用の領域を拡張してください。"}},
	{OutOfStorage, "SHAM1019-E",
		Text{"The device's third-party data storage is full.",
			"機器のサードパーティデータストレージに空きがありません。"},
		Text{"Remove blocks or allocations that other products no longer need.",
			"ほかの製品が使用していないブロックまたは割り当てを削除してください。"}},
	{WornOut, "SHAM1020-E",
		Text{"The device's flash memory refuses writes for a while: wear-out protection.",
			"フラッシュメモリの劣化保護機能によって、一時的に書き込みが拒否されました。"},
		Text{"Wait an hour and run the command again. If it comes back, find the program that keeps writing to this PC's AMT.",
			"1時間ほど待ってからコマンドを再実行してください。繰り返し発生する場合は、このPCのAMTに書き込み続けているプログラムを調査してください。"}},
	{Busy, "SHAM1021-E",
		Text{"The device is busy or not ready yet.",
			"機器が処理中であるか、まだ準備ができていません。"},
		Text{"Wait some minutes and run the command again.",
			"数分待ってからコマンドを再実行してください。"}},
	{UnexpectedStatus, "SHAM1022-E",
		Text{"The device refused a step with a status that is not expected here.",
			"機器が想定外のステータスで処理を拒否しました。"},
		Text{"Look the status up in Intel's documents; update the PC's firmware if it is old. Report it with the log line if it stays.",
			"Intelの文書でステータスの意味を確認してください。ファームウェアが古い場合は更新してください。解決しない場合は、ログの行を添えて問い合わせてください。"}},
	{DeviceFault, "SHAM1023-E",
		Text{"The device answered a request with a fault.",
			"機器が要求に対してフォルトを返しました。"},
		Text{"Run the command again; update the PC's firmware if it is old. Report it with the log line if it stays.",
			"コマンドを再実行してください。ファームウェアが古い場合は更新してください。解決しない場合は、ログの行を添えて問い合わせてください。"}},
	{LocalResources, "SHAM1024-E",
		Text{"This machine has no sockets or files left for another connection.",
			"このコンピュータで、接続に必要なソケットまたはファイルが不足しています。"},
		Text{"Lower --parallel, or raise the limit of open files (ulimit -n).",
			"--parallelの値を小さくするか、オープンできるファイル数の上限(ulimit -n)を引き上げてください。"}},
	{OtherError, "SHAM1025-E",
		Text{"An error that the command does not know stopped the work on this target.",
			"想定外のエラーによって、この実行先の処理が中止されました。"},
		Text{"Read the detail in the log and report it with the log line.",
			"ログの詳細を確認し、ログの行を添えて問い合わせてください。"}},
	{Interrupted, "SHAM1026-W",
		Text{"The command was interrupted while it worked on this target.",
			"この実行先の処理中にコマンドが中断されました。"},
		Text{"Run the command again: doing it twice is harmless.",
			"コマンドを再実行してください。2回実行しても問題ありません。"}},
	{NotTried, "SHAM1027-W",
		Text{"Not tried: the first PCs that answered all refused the password, so the command stopped before it locks more of them.",
			"実行していません。最初に応答したPCがすべてパスワードを拒否したため、ほかのPCをロックしないようにコマンドを停止しました。"},
		Text{"Correct user and password in the [amt] table, wait some minutes and run the command again; --ignore-logon-failures goes on regardless.",
			"[amt]のユーザ名とパスワードを修正し、数分待ってからコマンドを再実行してください。--ignore-logon-failuresを指定すると、停止しないで続行します。"}},
}

// How the numbers of the administration class map to reasons where amt does not explain them already.
var statusReasons = map[amt.Status]Code{
	amt.StatusInvalidPTMode:            NotProvisioned,
	amt.StatusNotEnoughStorage:         OutOfStorage,
	amt.StatusNotPermitted:             RealmMissing,
	amt.StatusMaxLimitReached:          AllocationFull, // a full EACL has an error of its own
	amt.StatusInvalidProvisioningState: NotProvisioned,
	amt.StatusFlashWriteLimitExceeded:  WornOut,
}

// classify finds the reason behind an error of the network or of amt. The order goes from the particular to the
// general: a Status that amt explained is judged by the explanation. found is what amt saw before the error.
func classify(err error, found amt.Result) Code {
	if errors.Is(err, amt.ErrNoSpace) {
		if found.NonPartner {
			return AllocationFull
		}
		return OutOfStorage
	}
	for _, known := range []struct {
		err  error
		code Code
	}{
		{amt.ErrEACLFull, EACLFull},
		{amt.ErrNo3PDS, No3PDS},
		{amt.ErrNoRealm, RealmMissing},
		{amt.ErrLockedOut, LockedOut},
		{amt.ErrNotProvisioned, NotProvisioned},
		{amt.ErrMode, EnterpriseMode},
		{amt.ErrNotReady, Busy},
		{wsman.ErrLogOn, LogOnRefused},
		{wsman.ErrNoTrust, NoTrust},
		{wsman.ErrCert, BadCertificate},
		{wsman.ErrTLSOnly, TLSRequired},
		{wsman.ErrNotTLS, NotTLS},
		{wsman.ErrTooLarge, NotAMT},
		{wsman.ErrBadReply, NotAMT},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	if status, ok := errors.AsType[amt.Status](err); ok {
		if code, ok := statusReasons[status]; ok {
			return code
		}
		return UnexpectedStatus
	}
	if fault, ok := errors.AsType[*wsman.Fault](err); ok {
		switch {
		case fault.Subcode == "AccessDenied":
			return RealmMissing
		case fault.HTTPStatus == http.StatusServiceUnavailable || fault.Subcode == "TimedOut":
			return Busy
		case fault.Action == "" && fault.HTTPStatus != http.StatusBadRequest:
			return NotAMT // an answer that is no SOAP: another web server. AMT itself has an HTML page for 400 only
		}
		return DeviceFault
	}
	if exhausted(err) {
		return LocalResources
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return TimedOut
	}
	if broken(err) {
		return ConnectionBroken
	}
	return OtherError
}

// broken reports a transport error: the exchange was cut by the device or on the way.
func broken(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	return isNet || isEOF(err) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Printable makes text from files and firmware fit for a terminal and a log line: what does not print (controls,
// line ends, direction marks, broken UTF-8) is written as an escape, and it ends after limit characters.
func Printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for i, r := range s {
		if n++; n > limit {
			b.WriteString("...")
			break
		}
		switch {
		case r == unicode.ReplacementChar && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}
