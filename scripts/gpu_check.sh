#!/usr/bin/env bash
# A lab's first command on a new GPU node: does it compute right, and what does it cost there?
#
#   scripts/gpu_check.sh [--wheels DIR] [--out DIR]     meant to take ten minutes; needs no network
#   scripts/gpu_check.sh --rehearse [--out DIR]         the same steps on a CPU, at toy sizes
#
# The Python (PYTHON names it, else python3) has torch with CUDA, transformers and peft; the rest comes
# as wheels in DIR, which a machine with a network has filled:
# pip download -d DIR -c constraints.txt . pytest setuptools wheel
# Runs the CUDA tests, bench.selfcheck, counts a layer's launches (count_calls.py), and times a layer
# (time_adapters.py) and a whole step (time_training.py) for SmolLM2's and LLaMA-2 7B's shapes and a
# random 1B model: bf16, eager and compiled (a few contestants), against peft's LoRA and DoRA. Results
# go to results/cost/CARD. A step that fails is named at the end, and the others run; after
# GPU_CHECK_SECONDS (600) those that are left are named instead. Exit status: 0; 1 a step failed or was
# left; 2 it cannot begin.
set -u
cd "$(dirname "$0")/.." || exit 2
wheels="" out="" rehearse=""
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=${2:?--wheels needs a folder}; shift 2 ;;
        --out) out=${2:?--out needs a folder}; shift 2 ;;
        --rehearse) rehearse=yes; shift ;;
        -h|--help) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "unknown argument $1; see $0 --help" >&2; exit 2 ;;
    esac
done
if [ -z "$rehearse" ] && ! nvidia-smi -L >/dev/null 2>&1; then
    echo "no GPU here (nvidia-smi -L finds none); --rehearse runs the same steps on a CPU" >&2
    exit 2
fi

python=${PYTHON:-python3}
if [ -n "$wheels" ]; then
    [ -d "$wheels" ] || { echo "--wheels $wheels: no such folder" >&2; exit 2; }
    # What the given Python sees is seen here too, be it a system's or that of an environment.
    "$python" -m venv --system-site-packages .venv-gpu &&
        "$python" -c 'import site; print(*site.getsitepackages(), sep="\n")' \
            >"$(.venv-gpu/bin/python -c 'import site; print(site.getsitepackages()[0])')/outer.pth" &&
        .venv-gpu/bin/pip install --quiet --no-index --find-links "$wheels" --upgrade \
            pytest setuptools wheel &&
        .venv-gpu/bin/pip install --quiet --no-index --find-links "$wheels" \
            --no-build-isolation --editable . ||
        { echo "the wheels in $wheels are not enough; see above for what is missing" >&2; exit 2; }
    python=$PWD/.venv-gpu/bin/python
fi
export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD

smollm2="model=tiny --set model.name=smollm2_random model.architecture.vocab_size=49152
    model.architecture.hidden_size=576 model.architecture.intermediate_size=1536
    model.architecture.num_hidden_layers=30 model.architecture.num_attention_heads=9
    model.architecture.num_key_value_heads=3 model.architecture.max_position_embeddings=4096
    model.architecture.tie_word_embeddings=true"
billion="model=llama_1b3 --set model.tokenizer=bytes model.architecture.max_position_embeddings=4096"
if [ -n "$rehearse" ]; then
    card="CPU rehearsal"
    out=${out:-$(mktemp -d)}
    export CUDA_VISIBLE_DEVICES=""
    precision=fp32 layers="--device cpu --shapes smollm2 --tokens 8 --rounds 1"
    sizes="--batch 1 --length 16 --rounds 1"
    smollm2="model=tiny --set model.name=smollm2_random" billion="model=tiny --set model.name=llama_1b3"
    tests="--collect-only" self="--help" backend=eager calls="--shape 48 48 --dtype fp32"
else
    card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
    out=${out:-results/cost/$(echo "$card" | tr ' A-Z' '_a-z' | tr -cd 'a-z0-9_-')}
    precision=bf16 layers="--device cuda --shapes smollm2 llama2_7b --tokens 271 2048 --rounds 15"
    sizes="--batch 8 --length 256 --rounds 9"
    tests="" self="" backend=inductor calls="--shape 4096 4096 --dtype bf16 --device cuda"
fi
mkdir -p "$out" || exit 2

failed=() deadline=${GPU_CHECK_SECONDS:-$([ -n "$rehearse" ] && echo 3600 || echo 600)}
step() { # NAME SECONDS COMMAND...: its output goes to OUT/NAME.log
    local name=$1 limit=$2 begin=$SECONDS left=$((deadline - SECONDS))
    shift 2
    if [ $left -le 0 ]; then
        echo "LEFT    $name: $deadline s are over"
        failed+=("$name")
        return
    fi
    [ $left -lt "$limit" ] && limit=$left
    if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
        echo "ok      $name ($((SECONDS - begin)) s)"
    else
        echo "FAILED  $name, status $? ($((SECONDS - begin)) s): $out/$name.log"
        failed+=("$name")
    fi
}
training() { # NAME MODEL... [OPTION...]
    local name=$1 model=${2#model=}
    shift 2
    step "training-$name" 240 "$python" scripts/time_training.py --model "$model" "$@" $sizes \
        --precision "$precision" --out "$out/training-$name"
}

echo "$card; results in $out"
step tests 180 "$python" -m pytest tests/methods/test_runtimes.py -q -p no:cacheprovider -k cuda $tests
step selfcheck 120 "$python" -m bench.selfcheck $self
step calls 60 "$python" scripts/count_calls.py $calls
step adapters 200 "$python" scripts/time_adapters.py $layers --dtypes "$precision" --out "$out"
training smollm2 $smollm2
compiled=(--compile $backend --only LoRA "MoRA rotation" "MoRA sharing" "peft LoRA")
training smollm2-compiled $smollm2 "${compiled[@]}"
training llama_1b3 $billion
training llama_1b3-compiled $billion "${compiled[@]}"

if [ -n "$rehearse" ]; then
    echo "REHEARSED ON A CPU ONLY, at toy sizes: no figure in $out says anything about a GPU"
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all steps done; the figures: $out"
