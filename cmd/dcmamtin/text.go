package main

import (
	"fmt"
	"os"
	"strings"

	"samehost/internal/amtinit"
)

// Everything that a person reads and that is not a reason stands here, in both languages.
var (
	textHelp = amtinit.Text{
		EN: `Usage: dcmamtin {/f FILE | /H HOST | /I ADDRESS} [options]
Initializes the area for the host ID in the AMT nonvolatile memory of PCs.
Doing it again is harmless.

  /f FILE      every client and relay system that a system configuration
               information file lists (full path)
  /H HOST      one PC by its host name, at most 64 single-byte characters
  /I ADDRESS   one PC by its IPv4 or IPv6 address

  --resume                 go on with a run that was broken off
  --retry-failed           only the PCs that failed in the run before
  --dry-run                look only, change nothing
  --config FILE            instead of this machine's manager.toml or relay.toml
  --parallel N             PCs worked on at a time (1024)
  --timeout TIME           limit for one PC (30s)
  --ignore-logon-failures  go on though the first five PCs refuse the password
  --progress auto|plain|none    --json    --lang en|ja    --version    -h --help

Examples:
  dcmamtin /I 192.0.2.10 --timeout 1m
  dcmamtin.exe /f "D:\Program Files\Hitachi\NETMDM\DMPRM\NETM.NDD" --resume

Exit codes: 0 every PC initialized, 1 file, 2 arguments, 12 other error,
30 at least one PC failed, 31 every PC failed (causes and remedies: DCMAMT.LOG)
`,
		JA: `形式: dcmamtin {/f ファイル | /H ホスト名 | /I IPアドレス} [オプション]
PCのAMTの不揮発性メモリに、ホスト識別子を保管するための領域を初期設定します。
2回実行しても問題ありません。

  /f ファイル    システム構成情報ファイル(フルパス)に記載されている、すべての
                 クライアントと中継システム
  /H ホスト名    1台のPC。半角64文字以内
  /I IPアドレス  1台のPC。IPv4またはIPv6

  --resume                 中断した実行を続きから再開する
  --retry-failed           前回の実行で失敗したPCだけに実行する
  --dry-run                確認だけを行い、何も変更しない
  --config FILE            manager.tomlやrelay.tomlの代わりに使う設定ファイル
  --parallel N             同時に処理するPCの台数(1024)
  --timeout TIME           1台当たりの制限時間(30s)
  --ignore-logon-failures  最初の5台がパスワードを拒否しても続行する
  --progress auto|plain|none    --json    --lang en|ja    --version    -h --help

例:
  dcmamtin /I 192.0.2.10 --timeout 1m
  dcmamtin.exe /f "D:\Program Files\Hitachi\NETMDM\DMPRM\NETM.NDD" --resume

リターンコード: 0 すべて成功、1 ファイルの誤り、2 引数の誤り、12 その他、
30 1台以上で失敗、31 すべてで失敗 (要因と対処はDCMAMT.LOGを参照)
`}

	textBadFile = amtinit.Text{
		EN: "%v; correct the line, no PC was touched",
		JA: "システム構成情報ファイルの形式が不正です: %v。記述を修正してください(どのPCにも実行していません)"}
	textCannotOpen = amtinit.Text{
		EN: "%s: %v; check the path of the system configuration information file, and that you may read it",
		JA: "システム構成情報ファイルを開けません: %s: %v。パスと読み取り権限を確認してください"}
	textNotRegular = amtinit.Text{
		EN: "%s is not a file; check the path of the system configuration information file",
		JA: "%sはファイルではありません。システム構成情報ファイルのパスを確認してください"}
	textNoClient = amtinit.Text{
		EN: "%s names no client; check the path, or write the file anew (samehost-manager sysconfig export)",
		JA: "%sにはクライアントが記載されていません。パスを確認するか、ファイルを出力し直してください(samehost-manager sysconfig export)"}
	textFileChanged = amtinit.Text{
		EN: "%s changed while it was worked through; run the command again when it is at rest",
		JA: "%sが処理中に変更されました。変更が終わってからコマンドを再実行してください"}
	textSystem = amtinit.Text{
		EN: "%v",
		JA: "コマンドの実行環境を確認してください: %v"}
	textConfigWarning = amtinit.Text{
		EN: "%s",
		JA: "設定ファイルの内容を確認してください: %s"}
	textNoTrust = amtinit.Text{
		EN: "[amt] tls = true needs tls_ca or tls_pin beside it; set one of them in %s",
		JA: "[amt]でtls = trueを指定する場合は、tls_caまたはtls_pinが必要です。%sに設定してください"}
	textLog = amtinit.Text{
		EN: "%v; see that the folder is there, can be written and has room, or name another one as data_dir in %s",
		JA: "ログファイルに書き込めません: %v。フォルダがあること、書き込みできること、空きがあることを確認するか、ほかのフォルダを%sのdata_dirに指定してください"}
	textStdout = amtinit.Text{
		EN: "standard output cannot be written: %v",
		JA: "標準出力に書き込めません: %v"}
	textInterrupted = amtinit.Text{
		EN: "interrupted: nothing further begins, %d in flight are finished first (%s each at most); once more breaks off at once",
		JA: "中断します。新しい実行先の処理は始めません。処理中の%d台が終わるのを待っています(1台当たり最大%s)。もう一度中断すると直ちに打ち切ります"}
	textRunAgain = amtinit.Text{
		EN: "interrupted: %d of %d targets are not done; go on with: %s",
		JA: "中断しました。%[2]d台のうち%[1]d台が終わっていません。次のコマンドで続行してください: %[3]s"}
	textNeverFinished = amtinit.Text{
		EN: "%d of %d targets were never finished, and are not done; do them with: %s",
		JA: "%[2]d台のうち%[1]d台は、まだ一度も処理が終わっていません。次のコマンドで実行してください: %[3]s"}
	textFolder = amtinit.Text{
		EN: "%v; see that the folder is there, can be written and has room, or name another one as data_dir in %s",
		JA: "ジャーナルを使用できません: %v。フォルダがあること、書き込みできること、空きがあることを確認するか、ほかのフォルダを%sのdata_dirに指定してください"}
	textJournal = amtinit.Text{
		EN: "%v; nothing further was begun, and what is not in the journal is not claimed; see that it can be written, then go on with: %s",
		JA: "ジャーナルに書き込めません: %v。新しい実行先の処理を中止しました。ジャーナルに記録できなかった結果は出力していません。書き込みできるようにしてから、次のコマンドで続行してください: %s"}
	textBusy = amtinit.Text{
		EN: "%v; wait until it has ended, and go on with: %s",
		JA: "同じ実行先に対する別の実行が進行中です: %v。終了してから、次のコマンドで続行してください: %s"}
	textFromStart = amtinit.Text{
		EN: "there is no journal of %s in %s; starting from the beginning",
		JA: "%sのジャーナルが%sにありません。最初から実行します"}
	textNoJournal = amtinit.Text{
		EN: "there is no journal of %s in %s, so nothing is known to have failed; run without it: %s",
		JA: "%sのジャーナルが%sにないため、失敗した実行先がわかりません。次のコマンドで実行してください: %s"}
	textBadJournal = amtinit.Text{
		EN: "%v; begin anew, doing it twice is harmless: %s",
		JA: "ジャーナルを使用できません: %v。次のコマンドで最初から実行してください。2回実行しても問題ありません: %s"}
	textNewJournal = amtinit.Text{
		EN: "%v; use that release, or begin anew, doing it twice is harmless: %s",
		JA: "新しいリリースのジャーナルです: %v。そのリリースを使用するか、次のコマンドで最初から実行してください。2回実行しても問題ありません: %s"}
	textOtherFile = amtinit.Text{
		EN: "%s has changed since the run of %s, no PC was touched; begin anew, doing it twice is harmless: %s",
		JA: "%sが%sの実行から変更されています(どのPCにも実行していません)。次のコマンドで最初から実行してください。2回実行しても問題ありません: %s"}
	textGoingOn = amtinit.Text{
		EN: "going on with the run of %s: %d of %d targets are finished",
		JA: "%sの実行を再開します: %[3]d台のうち%[2]d台が終了しています"}
	textRetrying = amtinit.Text{
		EN: "trying again what failed in the run of %s: %d of %d targets",
		JA: "%sの実行で失敗した実行先に再実行します: %[3]d台のうち%[2]d台"}
	textUnreadable = amtinit.Text{
		EN: "%s: %d lines cannot be read; what they say counts as not done",
		JA: "%s: 読み取れない行が%d行あります。その行の実行先は、終わっていないものとして扱います"}

	textInitialized = amtinit.Text{EN: "initialized", JA: "初期設定に成功しました"}
	textAlready     = amtinit.Text{EN: "initialized already, nothing changed", JA: "初期設定済みです(変更なし)"}
	textDetail      = amtinit.Text{EN: " (%s)", JA: "(%s)"}
	textFailed      = amtinit.Text{EN: "FAILED", JA: "失敗"}
	textSummary     = amtinit.Text{
		EN: "Targets: %d, initialized %d (%d already), failed %d, not tried %d",
		JA: "実行先%d台: 成功%d台(うち初期設定済み%d台)、失敗%d台、未実行%d台"}
	textSummaryDry = amtinit.Text{
		EN: "Targets: %d, initialized %d, would be %d, would fail %d, not tried %d",
		JA: "実行先%d台: 設定済み%d台、設定が必要%d台、失敗の見込み%d台、未実行%d台"}
	textDryRun = amtinit.Text{
		EN: "Dry run: nothing was changed.",
		JA: "確認だけを行いました。何も変更していません。"}
	textReasons    = amtinit.Text{EN: "Why targets failed:", JA: "失敗の要因:"}
	textReasonsDry = amtinit.Text{EN: "Why targets would fail:", JA: "失敗が見込まれる要因:"}
	textWarnings   = amtinit.Text{EN: "Warnings:", JA: "警告:"}
	textWarned     = amtinit.Text{EN: "With a warning: %d", JA: "警告あり: %d台"}
	textTook       = amtinit.Text{EN: "Time: %s", JA: "所要時間: %s"}
	textRate       = amtinit.Text{EN: ", %s targets per second", JA: "、毎秒%s台"}
	textLogAt      = amtinit.Text{EN: "Exit code %d. Log: %s", JA: "リターンコード%d。ログ: %s"}
	textRetry      = amtinit.Text{EN: "To try only those that failed again:", JA: "失敗した実行先だけを再実行するコマンド:"}

	textWouldInitialize = amtinit.Text{EN: "would be initialized", JA: "初期設定が必要です"}
	textWouldFail       = amtinit.Text{EN: "would FAIL", JA: "失敗の見込み"}
	textWarning         = amtinit.Text{EN: "Warning:", JA: "警告:"}

	// What a dry run finds out.
	textReachable        = amtinit.Text{EN: "reachable", JA: "接続可"}
	textUnreachable      = amtinit.Text{EN: "not reachable", JA: "接続不可"}
	textSpeaksAMT        = amtinit.Text{EN: "AMT", JA: "AMTあり"}
	textSpeaksNoAMT      = amtinit.Text{EN: "no AMT", JA: "AMTなし"}
	textVersion          = amtinit.Text{EN: "AMT %s", JA: "AMT %s"}
	textLetsIn           = amtinit.Text{EN: "log-on accepted", JA: "ログオン可"}
	textLetsNotIn        = amtinit.Text{EN: "log-on refused", JA: "ログオン不可"}
	textHas3PDS          = amtinit.Text{EN: "3PDS", JA: "3PDSあり"}
	textHasNo3PDS        = amtinit.Text{EN: "no 3PDS", JA: "3PDSなし"}
	textIsInitialized    = amtinit.Text{EN: "initialized", JA: "初期設定済み"}
	textIsNotInitialized = amtinit.Text{EN: "not initialized", JA: "初期設定未実施"}
	textHasRoom          = amtinit.Text{EN: "room", JA: "空きあり"}
	textHasNoRoom        = amtinit.Text{EN: "no room", JA: "空きなし"}
	textEnterprises      = amtinit.Text{EN: "enterprises: %s", JA: "エンタープライズ: %s"}

	// What the firmware's memory got; keys are those of the JSON output.
	textDone = map[string]amtinit.Text{
		"enterprise-added":    {EN: "enterprise entry added", JA: "エンタープライズを登録"},
		"allocation-added":    {EN: "allocation entry added", JA: "割り当てエントリを登録"},
		"allocation-enlarged": {EN: "allocation entry enlarged", JA: "割り当てエントリを拡張"},
	}
	textWouldDo = map[string]amtinit.Text{
		"enterprise-added":    {EN: "enterprise entry", JA: "エンタープライズの登録"},
		"allocation-added":    {EN: "allocation entry", JA: "割り当てエントリの登録"},
		"allocation-enlarged": {EN: "larger allocation entry", JA: "割り当てエントリの拡張"},
	}
)

// problem is an error line in the reader's language together with the exit code it leads to.
type problem struct {
	exit int
	text amtinit.Text
}

func newProblem(exit int, text amtinit.Text, values ...any) *problem {
	for i, v := range values {
		switch v := v.(type) {
		case error:
			values[i] = amtinit.Printable(v.Error(), 1000)
		case string:
			values[i] = amtinit.Printable(v, 400)
		}
	}
	return &problem{exit, amtinit.Text{EN: fmt.Sprintf(text.EN, values...), JA: fmt.Sprintf(text.JA, values...)}}
}

// environmentLanguage is the reader's language as the environment has it, in the order of POSIX (XBD 8.2); where it
// says nothing, as Windows has it.
func environmentLanguage() amtinit.Lang {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := os.Getenv(name); v != "" {
			return languageOf(v)
		}
	}
	return languageOf(systemLanguage())
}

func languageOf(locale string) amtinit.Lang {
	if l := strings.ToLower(locale); l == "ja" || strings.HasPrefix(l, "ja_") || strings.HasPrefix(l, "ja-") ||
		strings.HasPrefix(l, "ja.") || strings.HasPrefix(l, "japanese") {
		return amtinit.Japanese
	}
	return amtinit.English
}
