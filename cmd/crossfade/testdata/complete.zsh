# Prints what a zsh would offer: zsh -f complete.zsh SCRIPT LINE. The shell runs in a
# pseudo-terminal, with a compadd that prints what it is to add.
zmodload zsh/zpty || exit 1
zpty shell zsh -f -i
setopt rcquotes
setup() {
	local line
	zpty -w shell "script=${(q)2}; source ${(q)1}"
	repeat 20; do
		zpty -r shell line
		[[ $line == ok* ]] && return
	done
	print -u2 'the shell is not ready'
	exit 2
}
rules=$(mktemp)
trap 'rm -f $rules' EXIT
cat >$rules <<'RULES'
PROMPT=
autoload -Uz compinit
compinit -u -D
source $script
bindkey '^M' undefined
bindkey '^J' undefined
bindkey '^I' complete-word
mark() { print -rn - $'\0\n' }
compprefuncs=(mark)
comppostfuncs=(mark exit)
zstyle ':completion:*' insert-tab false
compadd() {
	if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
		builtin compadd "$@"
		return $?
	fi
	local -a hits
	builtin compadd -A hits "$@"
	(( $#hits )) && print -rl - $hits
	return 0
}
print ok
RULES
setup $rules $1
zpty -w -n shell "$2"$'\t'
integer inside=0
local line
while zpty -r shell line; do
	if [[ $line == *$'\0'* ]]; then
		(( inside++ )) && exit 0
	elif (( inside )); then
		print -r - ${line%$'\r\n'}
	fi
done
